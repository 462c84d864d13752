package thems;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.NotSerializableException;
import java.nio.file.Path;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** What the other tests rely on: a pipeline that Jenkins would not run is not run here either. */
class ControllerTest {
    private Controller controller;

    @BeforeEach
    void begin(@TempDir Path home) throws IOException {
        controller = new Controller(new Agent(home));
    }

    @Test
    void whatCannotBeSavedMustNotBeHeldAcrossAStep() {
        controller.params.put("THREAD", new Object());
        assertThrows(NotSerializableException.class, () -> controller.build("Object held = params.THREAD; echo('x'); held"));
    }

    @Test
    void whatIsDoneBetweenStepsSurvivesARestart() throws Exception {
        controller.build("String all = ''; node('x') { all = all + 'a'; echo('1'); all = all + 'b' }; echo(all)");
        assertEquals("ab", controller.all("echo").get(1).text("value"));
        assertEquals(4, controller.restarts, "to enter, to echo, to leave, to echo");
    }

    @ParameterizedTest
    @ValueSource(strings = {"System.exit(0)", "'id'.execute()", "new File('/etc/passwd').text", "Thread.start { }",
            "new groovy.json.JsonSlurper().parseText('{}')", "''.class.forName('java.lang.Runtime')"})
    void whatTheSandboxForbidsIsForbidden(String script) throws Exception {
        controller.build(script);
        assertInstanceOf(SecurityException.class, controller.ending);
        assertEquals("FAILURE", controller.result);
    }

    @ParameterizedTest
    @ValueSource(strings = {"readJSON(file: 'x')", "sh('true')", "node('x') { sh(command: 'true') }", "echo('a', 'b')"})
    void whatNoPluginOfOursHasFails(String script) throws Exception {
        controller.build(script);
        assertInstanceOf(Controller.Failed.class, controller.ending);
        assertTrue(controller.steps.isEmpty() || controller.steps.get(0).name().equals("node"));
    }
}
