/** The button: plan, show it, wait for a person's yes, do it. See scaleForEvent.txt. */
void call(Map settings = [:]) {
    themsJob([command: 'scale', approval: true, dryRun: params.DRY_RUN, credentials: [:], parameters: [
        tier: [web: params.WEB, db: params.DB], until: params.UNTIL, event: params.EVENT, reason: params.REASON,
    ]] + settings)
}
