/** Make one machine anew without losing capacity, after a person's yes. See redeployMachine.txt. */
void call(Map settings = [:]) {
    themsJob([command: 'provision', approval: true, dryRun: params.DRY_RUN, credentials: [:], parameters: [
        replace: [params.MACHINE],
    ]] + settings)
}
