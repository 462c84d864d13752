package thems;

import java.io.Serializable;
import java.util.Map;

/** One call of a step: its name, and its arguments by their names, or the only one as "value". */
public record Step(String name, Map<String, Object> arguments) implements Serializable {
    public String text(String argument) {
        return String.valueOf(arguments.get(argument));
    }

    public Object get(String argument) {
        return arguments.get(argument);
    }
}
