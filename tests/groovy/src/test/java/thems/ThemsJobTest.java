package thems;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import thems.Agent.Run;

/** All that is Jenkins about a job. */
class ThemsJobTest {
    private static final String RUN = "themsJob(command: 'scale', parameters: [expire: true, yes: true],"
            + " credentials: [THEMS_PROXMOX_TOKEN_FILE: 'proxmox-token'])";
    private static final String BUTTON = "scaleForEvent(credentials: [THEMS_PROXMOX_TOKEN_FILE: 'proxmox-token'])";
    private static final String NASTY = "'; touch /tmp/x \"$(id)\" `id` $HOME ${env.PATH} \\ \n\t ż 🎉 \u2028 </script>";

    @TempDir
    Path home;

    private Agent agent;
    private Controller controller;

    @BeforeEach
    void begin() throws Exception {
        agent = new Agent(home);
        controller = new Controller(agent);
        controller.params.putAll(Map.of("WEB", "6", "DB", "", "UNTIL", "2026-12-01T23:00+01:00", "EVENT", "gala",
                "REASON", NASTY, "DRY_RUN", false));
    }

    private void build(String pipeline, Run... runs) throws Exception {
        agent.runs.addAll(List.of(runs));
        controller.build(pipeline);
        assertFalse(controller.ending instanceof SecurityException, () -> "the sandbox: " + controller.ending);
    }

    @ParameterizedTest
    @CsvSource({"0,SUCCESS", "1,FAILURE", "2,FAILURE", "3,UNSTABLE", "4,UNSTABLE", "5,UNSTABLE", "6,FAILURE", "143,ABORTED",
            "-1,FAILURE", "-2,FAILURE", "7,FAILURE", "137,FAILURE", "255,FAILURE"})
    void theExitCodeBecomesTheResult(int code, String result) throws Exception {
        build(RUN, Run.ends(code, "What became of it."));
        assertEquals(result, controller.result, () -> String.valueOf(controller.ending));
        assertTrue(controller.description.endsWith("What became of it."));
        assertEquals(List.of("report/*.*"), agent.archived);
    }

    @ParameterizedTest
    @ValueSource(ints = {-1, -2})
    void aLostProcessSaysSo(int code) throws Exception {
        build(RUN, Run.silent(code));
        assertEquals("FAILURE", controller.result);
        assertTrue(controller.ending.getMessage().contains("was lost"), controller.ending.getMessage());
    }

    @Test
    void anAbortStaysAnAbortAndTheReportIsKept() throws Exception {
        build(RUN, Run.aborted());
        assertInstanceOf(Controller.Interrupted.class, controller.ending);
        assertEquals("ABORTED", controller.result);
        assertEquals(List.of("report/*.*"), agent.archived);
        assertEquals("Aborted on request, nothing was changed.", controller.description);
    }

    @Test
    void anAgentThatDiesWhileItIsAbortedLeavesTheAbort() throws Exception {
        agent.diesOnArchive = true;
        build(RUN, Run.aborted());
        assertInstanceOf(Controller.Interrupted.class, controller.ending);
        assertEquals("ABORTED", controller.result);
    }

    @Test
    void aReportThatCannotBeKeptIsNoSuccess() throws Exception {
        agent.diesOnArchive = true;
        build(RUN, Run.ends(0, "Done."));
        assertEquals("UNSTABLE", controller.result);
        assertTrue(controller.description.endsWith("Done."));
    }

    @Test
    void aWrongCredentialIdIsNamedAndNothingIsRun() throws Exception {
        agent.missingCredential = "proxmox-token";
        build(RUN, Run.ends(0, "Done."));
        assertEquals("FAILURE", controller.result);
        assertEquals("Could not find credentials entry with ID 'proxmox-token'", controller.ending.getMessage());
        assertEquals(List.of(), controller.all("sh"));
    }

    @Test
    void everythingThatJenkinsDrawsIsGivenToIt() throws Exception {
        build(RUN, Run.ends(4, "Refused: a gate is closed."));
        assertEquals("report/gates.xml", controller.all("junit").get(0).text("testResults"));
        assertEquals(true, controller.all("junit").get(0).get("skipMarkingBuildUnstable"));
        Map<?, ?> page = (Map<?, ?>) controller.all("publishHTML").get(0).get("target");
        assertEquals("report.html", page.get("reportFiles").toString());
        assertEquals("Refused: a gate is closed.", controller.all("unstable").get(0).text("value"));
    }

    @Test
    void parametersArriveUnharmedAndInNoShellString() throws Exception {
        build(BUTTON, Run.ends(3, "Plan."), Run.ends(0, "Done."));
        for (Map<?, ?> given : agent.parameters) {
            assertEquals(NASTY, given.get("reason"));
            assertEquals("6", ((Map<?, ?>) given.get("tier")).get("web"));
            assertEquals("Anna Nowak", given.get("started-by"));
        }
        agent.rawParameters.forEach(json -> assertTrue(json.chars().allMatch(sign -> sign < 128), json));
        assertEquals(1, controller.all("sh").stream().map(step -> step.text("script")).distinct().count());
        for (Step step : controller.all("sh")) {
            assertInstanceOf(String.class, step.get("script"), "an interpolated string");
            for (String value : List.of("gala", "touch", "2026", "Anna", "d94e", Agent.SECRET)) {
                assertFalse(step.text("script").contains(value), step.text("script"));
            }
        }
        assertEquals("scale", agent.arguments.get(0));
        assertEquals("--parameters", agent.arguments.get(1));
        assertEquals(3, agent.arguments.size(), agent.arguments.toString());
    }

    @Test
    void noSecretIsSeenAnywhere() throws Exception {
        build(BUTTON, Run.ends(3, "Plan."), Run.ends(0, "Done."));
        assertTrue(agent.environment.get("THEMS_PROXMOX_TOKEN_FILE").endsWith("secret-proxmox-token"));
        assertFalse(agent.environment.containsValue(Agent.SECRET));
        assertFalse(agent.log.toString().contains(Agent.SECRET));
        assertFalse(controller.steps.toString().contains(Agent.SECRET));
        assertFalse(agent.rawParameters.toString().contains(Agent.SECRET));
    }

    @Test
    void theButtonShowsAPlanWaitsWithoutAnAgentAndDoesThatPlan() throws Exception {
        List<String> held = new java.util.ArrayList<>();
        agent.onInput = () -> {
            for (String block : List.of("node", "lock", "withCredentials")) {
                if (controller.within(block)) {
                    held.add(block);
                }
            }
            assertTrue(controller.description.contains("shop-web-3: make on pve1"), controller.description);
        };
        build(BUTTON, Run.ends(3, "Plan d94eb31acc77; nothing was changed."), Run.ends(0, "Done: web 2 → 6 serving."));
        assertEquals("SUCCESS", controller.result, () -> String.valueOf(controller.ending));
        assertEquals(List.of(), held);
        assertEquals(1, controller.all("input").size());
        assertTrue(controller.all("input").get(0).text("message").contains("43 steps, 30 s in all. Plan d94eb31acc77"));
        Map<?, ?> planned = agent.parameters.get(0);
        assertEquals(true, planned.get("plan"));
        assertEquals(true, planned.get("detailed-exitcode"));
        Map<?, ?> done = agent.parameters.get(1);
        assertEquals("d94eb31acc77", done.get("expect-plan"));
        assertFalse(done.containsKey("plan") || done.containsKey("detailed-exitcode"));
        assertEquals(List.of("plan/*.*", "report/*.*"), agent.archived);
        assertTrue(controller.description.endsWith("Done: web 2 → 6 serving."));
        assertTrue(controller.restarts > 30, "it was restarted at every step: " + controller.restarts);
    }

    @Test
    void theLockIsTakenBeforeAnAgentAndOnlyToChangeSomething() throws Exception {
        build(BUTTON, Run.ends(3, "Plan."), Run.ends(0, "Done."));
        List<String> order = controller.steps.stream().map(Step::name)
                .filter(List.of("milestone", "lock", "node", "input")::contains).toList();
        assertEquals(List.of("milestone", "node", "input", "milestone", "lock", "node"), order);
    }

    @Test
    void aDryRunStopsAfterThePlan() throws Exception {
        controller.params.put("DRY_RUN", true);
        build(BUTTON, Run.ends(3, "Plan d94eb31acc77; nothing was changed."));
        assertEquals("SUCCESS", controller.result);
        assertEquals(1, agent.parameters.size());
        assertEquals(List.of(), controller.all("input"));
    }

    @ParameterizedTest
    @CsvSource({"0,SUCCESS", "2,FAILURE", "4,UNSTABLE", "1,FAILURE", "-1,FAILURE"})
    void aPlanWithoutWorkOrWithAClosedGateAsksNobody(int code, String result) throws Exception {
        build(BUTTON, Run.ends(code, "Nothing to decide."));
        assertEquals(result, controller.result);
        assertEquals(List.of(), controller.all("input"));
        assertEquals(1, agent.parameters.size());
    }

    @Test
    void aPlanThatCouldNotBeReadIsOfferedToNobody() throws Exception {
        build(BUTTON, Run.silent(3));
        assertEquals("FAILURE", controller.result);
        assertEquals(List.of(), controller.all("input"));
        assertEquals(1, agent.parameters.size());
    }

    @Test
    void aNoIsAnAbortAndNothingIsDone() throws Exception {
        agent.answer = new Controller.Interrupted();
        build(BUTTON, Run.ends(3, "Plan."));
        assertInstanceOf(Controller.Interrupted.class, controller.ending);
        assertEquals("ABORTED", controller.result);
        assertEquals(1, agent.parameters.size());
    }

    @Test
    void aTimerIsAStarterToo() throws Exception {
        controller.causes = List.of(Map.of("shortDescription", "Started by timer"));
        build(RUN, Run.ends(0, "Done."));
        assertEquals("Started by timer", agent.parameters.get(0).get("started-by"));
    }

    @Test
    void aReportOfAnEarlierBuildIsNotTakenForThisOnes() throws Exception {
        build(RUN, Run.ends(0, "Done."));
        controller.description = "";
        build(RUN, Run.silent(-1));
        assertEquals("", controller.description);
    }

    @Test
    void anotherRepositorysPipelineGetsThePackageOfTheLibrarysVersion() throws Exception {
        controller.env.put("THEMS_REPOSITORY", "https://git.example.com/thems-jobs.git");
        controller.env.put("library.thems-jobs.version", "v1.2");
        build(RUN, Run.ends(0, "Done."));
        String source = controller.all("checkout").get(0).text("value");
        assertTrue(source.contains("v1.2") && source.contains("https://git.example.com/thems-jobs.git"), source);
    }
}
