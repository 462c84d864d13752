/** Ask the database cluster whether all is well; for a timer. See galeraHealth.txt. */
void call(Map settings = [:]) {
    themsJob([command: 'galera-health', lock: 'thems-jobs health', minutes: 5, credentials: [:],
              parameters: [:]] + settings)
}
