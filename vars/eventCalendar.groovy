/** Claim for the events of the calendar, and give back what is over; for a timer. See eventCalendar.txt. */
void call(Map settings = [:]) {
    themsJob([command: 'scale', credentials: [:], parameters: [
        calendar: env.THEMS_CALENDAR ?: 'events.yaml', yes: true,
    ]] + settings)
}
