/** Bring tiers to their declared state, after a person's yes. See provision.txt. */
void call(Map settings = [:]) {
    themsJob([command: 'provision', approval: true, dryRun: params.DRY_RUN, credentials: [:], parameters: [
        tiers: params.TIERS?.tokenize(' ,'),
    ]] + settings)
}
