/** A step with a body, as Jenkins runs one: entered, left however the body ends, and saved at any step within. */
Object call(String name, Object argument, Closure body) {
    enter(name, argument)
    try {
        return body()
    } catch (Throwable error) {
        if (name != 'catchError') { throw error }
        swallow(argument, error)
        return null
    } finally {
        leave(name, argument)
    }
}
