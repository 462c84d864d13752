/** Compare Jenkins' jobs with their definitions, and bring them there if APPLY says so. See jobsSync.txt. */
void call(Map settings = [:]) {
    themsJob([command: params.APPLY ? 'jobs-sync apply' : 'jobs-sync plan', minutes: 15, credentials: [:],
              parameters: params.APPLY ? [yes: true] : ['detailed-exitcode': true]] + settings)
}
