package thems;

import com.cloudbees.groovy.cps.Continuable;
import com.cloudbees.groovy.cps.CpsTransformer;
import com.cloudbees.groovy.cps.Envs;
import com.cloudbees.groovy.cps.ObjectInputStreamWithLoader;
import com.cloudbees.groovy.cps.Outcome;
import com.cloudbees.groovy.cps.sandbox.Untrusted;
import groovy.lang.Binding;
import groovy.lang.Closure;
import groovy.lang.GroovyClassLoader;
import groovy.lang.Script;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.ObjectOutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.codehaus.groovy.control.CompilerConfiguration;
import org.codehaus.groovy.control.customizers.ImportCustomizer;
import org.codehaus.groovy.runtime.InvokerHelper;

/**
 * Runs one build of a pipeline as a Jenkins controller does: transformed to continuations, every call through the
 * sandbox, and at every step written to bytes and read again, as if the controller were restarted there.
 */
public final class Controller {
    /** How a build that somebody aborted ends; Jenkins' own is called FlowInterruptedException. */
    public static final class Interrupted extends RuntimeException {
        private static final long serialVersionUID = 1;

        public Interrupted() {
            super("aborted");
        }
    }

    /** What a step throws that cannot do its work, and the step `error`. */
    public static final class Failed extends RuntimeException {
        private static final long serialVersionUID = 1;

        public Failed(String message) {
            super(message);
        }
    }

    /** The build in hand, as scripts see it. */
    public static final class CurrentBuild {
        public List<Map<String, String>> getBuildCauses() {
            return running().causes;
        }

        public void setResult(String result) {
            running().worsen(result);
        }

        public void setDescription(String text) {
            running().description = text;
        }
    }

    /** Marks what it transforms as a folder's library is marked: nobody has looked at it. */
    private static final class UntrustedTransformer extends CpsTransformer {
        @Override
        @SuppressWarnings("rawtypes")
        protected Class getTrustTag() {
            return Untrusted.class;
        }
    }

    public static final Path CHECKOUT = Path.of(System.getProperty("checkout")).toAbsolutePath().normalize();
    private static final List<String> RESULTS = List.of("SUCCESS", "UNSTABLE", "FAILURE", "ABORTED");
    private static final Set<String> SYMBOLS = Set.of("file", "scmGit");
    private static final Set<String> BLOCKS =
            Set.of("node", "dir", "lock", "timeout", "timestamps", "withCredentials", "withEnv", "catchError", "stage");
    private static Controller running;

    public final Map<String, Object> params = new LinkedHashMap<>();
    public final Map<String, String> env = new LinkedHashMap<>();
    public final List<Step> steps = new ArrayList<>();
    public List<Map<String, String>> causes = new ArrayList<>(List.of(Map.of("userName", "Anna Nowak")));
    public String result = "SUCCESS";
    public String description = "";
    public int restarts;
    public Throwable ending;

    private final Agent agent;
    private final Map<String, Script> vars = new HashMap<>();
    private final Deque<Step> open = new ArrayDeque<>();
    private final GroovyClassLoader jenkinsOwn;
    private final GroovyClassLoader loader;
    private final Script block;

    public Controller(Agent agent) throws IOException {
        this.agent = agent;
        jenkinsOwn = new GroovyClassLoader(getClass().getClassLoader(), settings(new CpsTransformer()));
        loader = new GroovyClassLoader(jenkinsOwn, settings(new UntrustedTransformer()));
        try (var files = Files.list(CHECKOUT.resolve("vars"))) {
            for (Path file : files.filter(path -> path.toString().endsWith(".groovy")).toList()) {
                vars.put(file.getFileName().toString().replace(".groovy", ""), parse(Files.readString(file)));
            }
        }
        String text = new String(getClass().getResourceAsStream("/block.groovy").readAllBytes());
        block = InvokerHelper.createScript(jenkinsOwn.parseClass(text), new Binding());
    }

    static Controller running() {
        return running;
    }

    /** Given a pipeline's text, run it to its end. */
    public void build(String pipeline) throws IOException, ClassNotFoundException {
        running = this;
        Continuable program = new Continuable(parse(pipeline), Envs.empty(new Sandbox()));
        Outcome next = new Outcome(null, null);
        while (true) {
            Outcome outcome = program.run0(next, Continuable.categories);
            if (!program.isResumable()) {
                end(outcome.getAbnormal());
                return;
            }
            Step step = (Step) outcome.getNormal();
            program = restart(program);
            try {
                next = new Outcome(perform(step), null);
            } catch (RuntimeException | IOException error) {
                next = new Outcome(null, error);
            }
        }
    }

    /** Return the calls of a step, in their order. */
    public List<Step> all(String name) {
        return steps.stream().filter(step -> step.name().equals(name)).toList();
    }

    /** Return whether the body of such a step is being run. */
    public boolean within(String name) {
        return open.stream().anyMatch(step -> step.name().equals(name));
    }

    /** Return the arguments of all steps of this name whose bodies are being run, the outermost first. */
    public List<Step> opened(String name) {
        List<Step> found = new ArrayList<>();
        open.descendingIterator().forEachRemaining(step -> {
            if (step.name().equals(name)) {
                found.add(step);
            }
        });
        return found;
    }

    Object global(String name) {
        return switch (name) {
            case "params" -> params;
            case "env" -> env;
            case "currentBuild" -> new CurrentBuild();
            case "scm" -> "this repository";
            default -> throw new Failed("No such property: " + name);
        };
    }

    Object call(String name, Object[] arguments) {
        if (vars.containsKey(name)) {
            return InvokerHelper.invokeMethod(vars.get(name), "call", arguments);
        }
        if (SYMBOLS.contains(name)) {
            return new Step(name, named(name, arguments));
        }
        if (arguments.length > 0 && arguments[arguments.length - 1] instanceof Closure<?> body && BLOCKS.contains(name)) {
            Object argument = arguments.length > 1 ? arguments[0] : Map.of();
            return InvokerHelper.invokeMethod(block, "call", new Object[] {name, argument, body});
        }
        if (Set.of("enter", "leave", "swallow").contains(name)) {
            return Continuable.suspend(new Step(name, new LinkedHashMap<>(Map.of(
                    "step", arguments[0], "argument", arguments.length > 1 ? arguments[1] : Map.of()))));
        }
        return Continuable.suspend(new Step(name, named(name, arguments)));
    }

    private static Map<String, Object> named(String name, Object[] arguments) {
        Map<String, Object> known = new LinkedHashMap<>();
        if (arguments.length == 1 && arguments[0] instanceof Map<?, ?> given) {
            given.forEach((key, value) -> known.put(key.toString(), value));
        } else if (arguments.length == 1) {
            known.put("value", arguments[0]);
        } else if (arguments.length > 1) {
            throw new Failed("No such DSL method '" + name + "' with " + arguments.length + " arguments");
        }
        return known;
    }

    private Object perform(Step step) throws IOException {
        switch (step.name()) {
            case "enter" -> {
                Step entered = new Step(step.text("step"), named(step.text("step"), new Object[] {step.get("argument")}));
                Signatures.check(entered);
                steps.add(entered);
                open.push(entered);
                agent.enter(this, entered);
                return null;
            }
            case "leave" -> {
                open.pop();
                return null;
            }
            case "swallow" -> {
                swallow((Map<?, ?>) step.get("step"), (RuntimeException) step.get("argument"));
                return null;
            }
            default -> {
                Signatures.check(step);
                steps.add(step);
                return agent.perform(this, step);
            }
        }
    }

    private void swallow(Map<?, ?> given, RuntimeException error) {
        if (error instanceof Interrupted && Boolean.FALSE.equals(given.get("catchInterruptions"))) {
            throw error;
        }
        worsen(given.containsKey("buildResult") ? given.get("buildResult").toString() : "FAILURE");
    }

    void worsen(String worse) {
        if (RESULTS.indexOf(worse) > RESULTS.indexOf(result)) {
            result = worse;
        }
    }

    private void end(Throwable error) {
        ending = error;
        if (error != null) {
            worsen(error instanceof Interrupted ? "ABORTED" : "FAILURE");
        }
    }

    private static CompilerConfiguration settings(CpsTransformer transformer) {
        CompilerConfiguration settings = new CompilerConfiguration();
        settings.addCompilationCustomizers(transformer, new ImportCustomizer().addImports("thems.Library"));
        settings.setScriptBaseClass(PipelineScript.class.getName());
        return settings;
    }

    private Script parse(String text) {
        return InvokerHelper.createScript(loader.parseClass(text), new Binding());
    }

    private Continuable restart(Continuable program) throws IOException, ClassNotFoundException {
        restarts++;
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (ObjectOutputStream out = new ObjectOutputStream(bytes)) {
            out.writeObject(program);
        }
        try (var in = new ObjectInputStreamWithLoader(new ByteArrayInputStream(bytes.toByteArray()), loader)) {
            return (Continuable) in.readObject();
        }
    }
}
