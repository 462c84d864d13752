package thems;

import groovy.json.JsonSlurper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.Deque;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import thems.Controller.Failed;
import thems.Controller.Interrupted;

/** An agent with a real workspace and a real shell; what the command line would do there is said beforehand. */
public final class Agent {
    /** How a run of the command line ends; a code below zero means that the process was lost. */
    public record Run(int code, String plan, String message, RuntimeException thrown) {
        public static Run ends(int code, String message) {
            return new Run(code, "shop-web-3: make on pve1, to reach the target\n43 steps, 30 s in all. Plan d94eb31acc77\n",
                    message, null);
        }

        public static Run aborted() {
            return new Run(143, "", "Aborted on request, nothing was changed.", new Interrupted());
        }

        public static Run silent(int code) {
            return new Run(code, "", "", null);
        }
    }

    public static final String SECRET = "5ecret-that-must-not-be-seen";

    public final Deque<Run> runs = new ArrayDeque<>();
    public final List<Map<?, ?>> parameters = new ArrayList<>();
    public final List<String> rawParameters = new ArrayList<>();
    public final List<String> arguments = new ArrayList<>();
    public final Map<String, String> environment = new LinkedHashMap<>();
    public final List<String> archived = new ArrayList<>();
    public final StringBuilder log = new StringBuilder();
    public RuntimeException answer; // what an approval ends with instead of a yes
    public Runnable onInput = () -> {};
    public String missingCredential = "";
    public boolean diesOnArchive;

    private final Path home;

    public Agent(Path home) {
        this.home = home;
    }

    void enter(Controller controller, Step step) throws IOException {
        if (step.name().equals("withCredentials")) {
            for (Object binding : (List<?>) step.get("value")) {
                String id = ((Step) binding).text("credentialsId");
                if (id.equals(missingCredential)) {
                    throw new Failed("Could not find credentials entry with ID '" + id + "'");
                }
                Files.writeString(home.resolve("secret-" + id), SECRET);
            }
        }
        Files.createDirectories(here(controller));
    }

    Object perform(Controller controller, Step step) throws IOException {
        Path here = here(controller);
        switch (step.name()) {
            case "milestone", "echo", "checkout", "junit", "publishHTML" -> {
                return null;
            }
            case "unstable" -> controller.worsen("UNSTABLE");
            case "error" -> throw new Failed(step.text("value"));
            case "input" -> {
                onInput.run();
                if (answer != null) {
                    throw answer;
                }
                return "ben";
            }
            case "pwd" -> {
                Path temporary = home.resolve("workspace@tmp");
                return Files.createDirectories(temporary).toString();
            }
            case "deleteDir" -> {
                try (var files = Files.walk(here)) {
                    for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
                        Files.delete(file);
                    }
                }
            }
            case "writeFile" -> Files.writeString(here.resolve(step.text("file")), step.text("text"));
            case "readFile" -> {
                return Files.readString(here.resolve(step.text("value")));
            }
            case "fileExists" -> {
                return Files.exists(here.resolve(step.text("value")));
            }
            case "libraryResource" -> {
                return step.text("value").endsWith(".sh") ? "for word in \"$@\"; do echo \"$word\"; done > \"$THEMS_PLACE/words\"\n"
                        + "env > \"$THEMS_PLACE/environment\"\n"
                        : Files.readString(Controller.CHECKOUT.resolve("resources").resolve(step.text("value")));
            }
            case "archiveArtifacts" -> {
                if (diesOnArchive) {
                    throw new Failed("the channel is closing down");
                }
                archived.add(step.text("artifacts"));
            }
            case "sh" -> {
                return shell(controller, step, here);
            }
            default -> throw new IllegalStateException(step.name());
        }
        return null;
    }

    private Integer shell(Controller controller, Step step, Path here) throws IOException {
        if (step.get("script") == null) {
            return null; // a plain `sh 'make ...'`, which is not ours to try
        }
        ProcessBuilder shell = new ProcessBuilder("sh", "-xe", "-c", step.text("script")).directory(here.toFile());
        shell.redirectErrorStream(true);
        for (Step words : controller.opened("withEnv")) {
            for (Object word : (List<?>) words.get("value")) {
                String[] parts = word.toString().split("=", 2);
                shell.environment().put(parts[0], parts[1]);
            }
        }
        for (Step given : controller.opened("withCredentials")) {
            for (Object binding : (List<?>) given.get("value")) {
                Step file = (Step) binding;
                Path path = home.resolve("secret-" + file.text("credentialsId"));
                shell.environment().put(file.text("variable"), path.toString());
            }
        }
        Process process = shell.start();
        log.append(new String(process.getInputStream().readAllBytes()));
        Path place = home.resolve("workspace@tmp");
        arguments.clear();
        arguments.addAll(Files.readAllLines(place.resolve("words")));
        Files.readAllLines(place.resolve("environment")).forEach(line -> {
            String[] parts = line.split("=", 2);
            environment.put(parts[0], parts.length > 1 ? parts[1] : "");
        });
        String json = Files.readString(place.resolve("parameters.json"));
        Map<?, ?> given = (Map<?, ?>) new JsonSlurper().parseText(json);
        rawParameters.add(json);
        parameters.add(given);
        Run run = runs.remove();
        Path folder = Files.createDirectories(here.resolve(given.get("report-dir").toString()));
        if (!run.message().isEmpty()) {
            Files.writeString(folder.resolve("plan.txt"), run.plan());
            Files.writeString(folder.resolve("message.txt"), run.message() + "\n");
            Files.writeString(folder.resolve("digest.txt"), "d94eb31acc77\n");
        }
        if (run.thrown() != null) {
            throw run.thrown();
        }
        return run.code();
    }

    private Path here(Controller controller) {
        Path here = home.resolve("workspace");
        for (Step step : controller.opened("dir")) {
            here = here.resolve(step.text("value"));
        }
        return here;
    }
}
