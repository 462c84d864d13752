package thems;

import com.cloudbees.groovy.cps.SerializableScript;

/** What every script of a pipeline is: what it does not define itself is asked of the controller. */
public abstract class PipelineScript extends SerializableScript {
    private static final long serialVersionUID = 1;

    @Override
    public Object invokeMethod(String name, Object arguments) {
        return Controller.running().call(name, (Object[]) arguments);
    }

    @Override
    public Object getProperty(String name) {
        return Controller.running().global(name);
    }
}
