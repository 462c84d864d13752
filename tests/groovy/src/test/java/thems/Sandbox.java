package thems;

import com.cloudbees.groovy.cps.impl.CallSiteBlock;
import com.cloudbees.groovy.cps.sandbox.DefaultInvoker;
import com.cloudbees.groovy.cps.sandbox.Invoker;
import com.cloudbees.groovy.cps.sandbox.Trusted;
import groovy.lang.Closure;
import groovy.lang.GString;
import groovy.lang.Script;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Every call that a pipeline makes passes here, as it passes Jenkins' sandbox. Allowed is the little that the steps use,
 * each looked up in script-security's list of approved signatures; whatever is new must be looked up there first.
 */
public final class Sandbox extends DefaultInvoker {
    private static final long serialVersionUID = 1;

    private static final Set<String> APPROVED = Set.of(
            "static ScriptBytecodeAdapter.compareEqual", "static ScriptBytecodeAdapter.compareNotEqual",
            "static ScriptBytecodeAdapter.compareLessThan", "static ScriptBytecodeAdapter.isCase",
            "static JsonOutput.toJson", "new GStringImpl", "static ScriptBytecodeAdapter.asType",
            "Map.get", "Map.put", "Map.putAll", "Map.plus", "Map.collect",
            "List.collect", "List.join", "List.last", "List.getAt",
            "String.trim", "String.tokenize", "String.plus", "Integer.compareTo",
            // What plugins approve of themselves: build variables and the build in hand.
            "CurrentBuild.getBuildCauses", "CurrentBuild.result=", "CurrentBuild.description=");

    @Override
    public Object methodCall(Object receiver, String method, Object[] arguments) throws Throwable {
        if (receiver instanceof Class<?> type) {
            approve("static " + type.getSimpleName() + "." + method);
        } else if (!(receiver instanceof Script) && !(receiver instanceof Closure)) {
            approve(kind(receiver) + "." + method);
        }
        return super.methodCall(receiver, method, arguments);
    }

    @Override
    @SuppressWarnings("rawtypes")
    public Object constructorCall(Class type, Object[] arguments) throws Throwable {
        approve("new " + type.getSimpleName());
        return super.constructorCall(type, arguments);
    }

    @Override
    public Object getProperty(Object receiver, String property) throws Throwable {
        if (!(receiver instanceof Script) && !(receiver instanceof Closure)) {
            approve(receiver instanceof Map ? "Map.get" : kind(receiver) + "." + property);
        }
        return super.getProperty(receiver, property);
    }

    @Override
    public void setProperty(Object receiver, String property, Object value) throws Throwable {
        approve(receiver instanceof Map ? "Map.put" : kind(receiver) + "." + property + "=");
        super.setProperty(receiver, property, value);
    }

    @Override
    public Object getArray(Object receiver, Object index) throws Throwable {
        approve(kind(receiver) + ".getAt");
        return super.getArray(receiver, index);
    }

    @Override
    public void setArray(Object receiver, Object index, Object value) throws Throwable {
        approve(kind(receiver) + ".putAt");
        super.setArray(receiver, index, value);
    }

    @Override
    public Object getAttribute(Object receiver, String name) throws Throwable {
        throw new SecurityException("fields are not to be read: " + name);
    }

    @Override
    public void setAttribute(Object receiver, String name, Object value) throws Throwable {
        throw new SecurityException("fields are not to be written: " + name);
    }

    @Override
    @SuppressWarnings("rawtypes")
    public Object superCall(Class type, Object receiver, String method, Object[] arguments) throws Throwable {
        throw new SecurityException("nothing is called of a super class: " + method);
    }

    @Override
    public Object methodPointer(Object receiver, String method) {
        throw new SecurityException("no method is passed on: " + method);
    }

    @Override
    public Invoker contextualize(CallSiteBlock block) {
        return block.getTags().contains(Trusted.INSTANCE) ? Invoker.INSTANCE : this;
    }

    private static String kind(Object receiver) {
        if (receiver instanceof Map) {
            return "Map";
        }
        if (receiver instanceof List) {
            return "List";
        }
        return receiver instanceof GString ? "String" : receiver == null ? "null" : receiver.getClass().getSimpleName();
    }

    private static void approve(String signature) {
        if (!APPROVED.contains(signature)) {
            throw new SecurityException("Scripts not permitted to use " + signature);
        }
    }
}
