package thems;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;
import thems.Agent.Run;

/** Every step, started by the Jenkinsfile of its job. */
class StepsTest {
    @TempDir
    Path home;

    private Agent agent;
    private Controller controller;

    @BeforeEach
    void begin() throws IOException {
        agent = new Agent(home);
        controller = new Controller(agent);
    }

    private Map<?, ?> build(String job, Run... runs) throws Exception {
        agent.runs.addAll(List.of(runs));
        controller.build(Files.readString(Controller.CHECKOUT.resolve("jobs/" + job + ".Jenkinsfile")));
        assertNull(controller.ending);
        return agent.parameters.get(0);
    }

    static Stream<Path> steps() throws IOException {
        return Files.list(Controller.CHECKOUT.resolve("vars")).filter(path -> path.toString().endsWith(".groovy"));
    }

    @ParameterizedTest
    @MethodSource("steps")
    void everyStepHasItsHelp(Path step) throws IOException {
        assertTrue(Files.size(Path.of(step.toString().replace(".groovy", ".txt"))) > 100);
    }

    @ParameterizedTest
    @MethodSource("steps")
    void everyStepForwardsInOneStatement(Path step) throws IOException {
        List<String> lines = Files.readAllLines(step);
        assertTrue(lines.size() <= (step.endsWith("themsJob.groovy") ? 90 : 12), step + " has " + lines.size() + " lines");
    }

    @Test
    void scaleForEvent() throws Exception {
        controller.params.putAll(Map.of("WEB", "6", "DB", "", "UNTIL", "2026-12-01T23:00+01:00", "EVENT", "gala",
                "REASON", "the autumn gala", "DRY_RUN", false));
        Map<?, ?> given = build("scale-for-event", Run.ends(3, "Plan."), Run.ends(0, "Done."));
        assertEquals("scale", agent.arguments.get(0));
        assertEquals(Map.of("web", "6", "db", ""), given.get("tier"));
        assertEquals("gala", given.get("event"));
        assertEquals("2026-12-01T23:00+01:00", given.get("until"));
        assertTrue(agent.environment.containsKey("THEMS_SSH_KEY_FILE"));
    }

    @Test
    void provision() throws Exception {
        controller.params.putAll(Map.of("TIERS", "web, balancer", "DRY_RUN", true));
        Map<?, ?> given = build("provision", Run.ends(3, "Plan."));
        assertEquals("provision", agent.arguments.get(0));
        assertEquals(List.of("web", "balancer"), given.get("tiers"));
        assertEquals(true, given.get("plan"));
    }

    @Test
    void redeployMachine() throws Exception {
        controller.params.putAll(Map.of("MACHINE", "shop-web-2", "DRY_RUN", false));
        Map<?, ?> given = build("redeploy-machine", Run.ends(3, "Plan."), Run.ends(0, "Done."));
        assertEquals("provision", agent.arguments.get(0));
        assertEquals(List.of("shop-web-2"), given.get("replace"));
        assertEquals(1, controller.all("input").size());
    }

    @Test
    void returnToBaselineAsksNobody() throws Exception {
        Map<?, ?> given = build("return-to-baseline", Run.ends(0, "Nothing to do."));
        assertEquals("scale", agent.arguments.get(0));
        assertEquals(true, given.get("expire"));
        assertEquals(true, given.get("yes"));
        assertEquals(List.of(), controller.all("input"));
    }

    @ParameterizedTest
    @CsvSource({",events.yaml", "/etc/thems-jobs/events.yaml,/etc/thems-jobs/events.yaml"})
    void eventCalendarAsksNobodyAndReadsTheFileThatTheEnvironmentNames(String named, String read) throws Exception {
        if (named != null) {
            controller.env.put("THEMS_CALENDAR", named);
        }
        Map<?, ?> given = build("event-calendar", Run.ends(0, "Nothing to do."));
        assertEquals("scale", agent.arguments.get(0));
        assertEquals(read, given.get("calendar"));
        assertEquals(true, given.get("yes"));
        assertEquals(List.of(), controller.all("input"));
        assertEquals("thems-jobs", controller.all("lock").get(0).text("resource"));
        assertTrue(agent.environment.containsKey("THEMS_SHOP_DATABASE_PASSWORD_FILE"));
    }

    @Test
    void anEventThatWouldNotFitIsYellowAndSaid() throws Exception {
        build("event-calendar", Run.ends(5, "Event gala (2026-12-05 17:00 UTC) would not fit."));
        assertEquals("UNSTABLE", controller.result);
        assertTrue(controller.description.endsWith("Event gala (2026-12-05 17:00 UTC) would not fit."));
        assertTrue(controller.all("unstable").get(0).text("value").startsWith("Event gala"));
    }

    @Test
    void aCalendarWithAMistakeIsRedAndSaid() throws Exception {
        agent.runs.add(Run.ends(2, "events.yaml: the calendar is empty. Nothing was changed."));
        controller.build("eventCalendar()");
        assertEquals("FAILURE", controller.result);
        assertEquals("events.yaml: the calendar is empty. Nothing was changed.", controller.ending.getMessage());
    }

    @Test
    void galeraHealthWaitsForNoOtherJob() throws Exception {
        build("galera-health", Run.ends(0, "All is well."));
        assertEquals("galera-health", agent.arguments.get(0));
        assertEquals("thems-jobs health", controller.all("lock").get(0).text("resource"));
        assertTrue(agent.environment.containsKey("THEMS_DATABASE_PASSWORD_FILE"));
    }

    @Test
    void jobsSyncComparesAndAppliesWhenItIsTold() throws Exception {
        controller.params.put("APPLY", false);
        Map<?, ?> given = build("jobs-sync", Run.ends(3, "Drift."), Run.ends(0, "Done."));
        assertEquals(List.of("jobs-sync", "plan"), agent.arguments.subList(0, 2));
        assertEquals(true, given.get("detailed-exitcode"));
        assertEquals("UNSTABLE", controller.result);
        controller.params.put("APPLY", true);
        build("jobs-sync");
        assertEquals(List.of("jobs-sync", "apply"), agent.arguments.subList(0, 2));
        assertEquals(true, agent.parameters.get(1).get("yes"));
        assertFalse(agent.environment.containsValue(Agent.SECRET));
    }

    @ParameterizedTest
    @CsvSource({"main,1", "feature,0"})
    void thisRepositorysPipelineSyncsJobsOnMainOnly(String branch, int syncs) throws Exception {
        controller.env.put("BRANCH_NAME", branch);
        agent.runs.add(Run.ends(0, "Done."));
        controller.build(Files.readString(Controller.CHECKOUT.resolve("Jenkinsfile")));
        assertNull(controller.ending);
        assertEquals(syncs, agent.parameters.size());
        assertTrue(controller.all("sh").stream().anyMatch(step -> step.text("value").equals("make test-groovy")));
        if (syncs > 0) {
            assertEquals(List.of("jobs-sync", "apply"), agent.arguments.subList(0, 2));
        }
    }

    @Test
    void anotherPipelineMayGiveItsOwnParameters() throws Exception {
        agent.runs.add(Run.ends(3, "Plan."));
        controller.build("scaleForEvent(dryRun: true, parameters: [tier: [web: 4], until: '2026-12-01T23:00Z'])");
        assertNull(controller.ending);
        assertEquals(4, ((Map<?, ?>) agent.parameters.get(0).get("tier")).get("web"));
    }
}
