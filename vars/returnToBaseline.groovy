/** Give back what was claimed for events that are over; for a timer. See returnToBaseline.txt. */
void call(Map settings = [:]) {
    themsJob([command: 'scale', credentials: [:], parameters: [expire: true, yes: true]] + settings)
}
