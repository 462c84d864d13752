package thems;

import java.util.Map;
import java.util.Set;

/** The steps that the plugins we ask for have, and the arguments by which we may call them. */
final class Signatures {
    private static final Map<String, Set<String>> KNOWN = Map.ofEntries(
            Map.entry("archiveArtifacts", Set.of("artifacts", "allowEmptyArchive", "fingerprint")),
            Map.entry("catchError", Set.of("message", "buildResult", "stageResult", "catchInterruptions")),
            Map.entry("checkout", Set.of("value")),
            Map.entry("deleteDir", Set.of()),
            Map.entry("dir", Set.of("value")),
            Map.entry("echo", Set.of("value")),
            Map.entry("error", Set.of("value")),
            Map.entry("fileExists", Set.of("value")),
            Map.entry("input", Set.of("message", "ok", "submitter", "submitterParameter", "id")),
            Map.entry("junit", Set.of("testResults", "allowEmptyResults", "skipMarkingBuildUnstable")),
            Map.entry("libraryResource", Set.of("value")),
            Map.entry("lock", Set.of("resource")),
            Map.entry("milestone", Set.of()),
            Map.entry("node", Set.of("value")),
            Map.entry("publishHTML", Set.of("target")),
            Map.entry("pwd", Set.of("tmp")),
            Map.entry("readFile", Set.of("value")),
            Map.entry("sh", Set.of("value", "script", "returnStatus", "label")),
            Map.entry("stage", Set.of("value")),
            Map.entry("timeout", Set.of("time", "unit")),
            Map.entry("timestamps", Set.of()),
            Map.entry("unstable", Set.of("value")),
            Map.entry("withCredentials", Set.of("value")),
            Map.entry("withEnv", Set.of("value")),
            Map.entry("writeFile", Set.of("file", "text", "encoding")));
    private static final Set<String> ON_AGENTS = Set.of(
            "archiveArtifacts", "checkout", "deleteDir", "dir", "fileExists", "junit", "publishHTML", "pwd", "readFile",
            "sh", "withCredentials", "writeFile");

    private Signatures() {}

    /** Throw unless Jenkins has this step, takes these arguments, and has an agent for it where it needs one. */
    static void check(Step step) {
        if (!KNOWN.containsKey(step.name())) {
            throw new Controller.Failed("No such DSL method '" + step.name() + "'");
        }
        for (String argument : step.arguments().keySet()) {
            if (!KNOWN.get(step.name()).contains(argument)) {
                throw new Controller.Failed("Unknown parameter of " + step.name() + ": " + argument);
            }
        }
        if (ON_AGENTS.contains(step.name()) && !Controller.running().within("node")) {
            throw new Controller.Failed("Required context class hudson.FilePath is missing for " + step.name());
        }
    }
}
