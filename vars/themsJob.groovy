import groovy.json.JsonOutput

/** Given a job (its keys: see themsJob.txt), carry it out; the exit code becomes the build's result. */
void call(Map job) {
    milestone()
    Map end = job.approval ? carryOut(job, 'plan', job.parameters + [plan: true, 'detailed-exitcode': true]) : [code: 3]
    if (end.code == 3 && !job.dryRun) {
        Map wanted = job.parameters + (job.approval ? approve(end) : [:])
        milestone()
        lock(resource: job.lock ?: env.THEMS_LOCK ?: 'thems-jobs') { end = carryOut(job, 'report', wanted) }
    }
    conclude(job.dryRun && end.code == 3 ? end + [code: 0] : end) // a dry run that found work has done well
}

/** Given a plan, return the option that binds the run to it once a person said yes; holds no agent and no lock. */
Map approve(Map plan) {
    stage('Approval') {
        timeout(time: 12, unit: 'HOURS') {
            input(message: "Do what the page of this build shows? ${plan.text.tokenize('\n').last()}",
                  id: 'Approval', ok: 'Do it', submitter: env.THEMS_APPROVERS ?: '')
        }
    }
    return ['expect-plan': plan.digest]
}

/** Given a job, a folder for its report and its options, run it on an agent; return code, text, message, digest. */
Map carryOut(Map job, String folder, Map options) {
    Map end = [code: -1, text: '', message: '', digest: '']
    List<String> starters = currentBuild.getBuildCauses().collect { it.get('userName') ?: it.get('shortDescription') }
    Map wanted = options + ['report-dir': folder, 'started-by': starters.join(', ')]
    stage(folder == 'plan' ? 'Plan' : 'Run') {
        node(env.THEMS_AGENT ?: 'thems-jobs') {
            dir('thems-jobs') {
                checkout(env.THEMS_REPOSITORY ? packageSource() : scm)
                dir(folder) { deleteDir() }
                try {
                    timeout(time: job.minutes ?: 120) { end.code = runCommand(job, wanted) }
                } finally {
                    keep(folder, end)
                }
            }
        }
    }
    return end
}

/** Given a job and its options, run its command with its credentials; return the exit code. */
int runCommand(Map job, Map options) {
    String place = pwd(tmp: true)
    writeFile(file: "${place}/parameters.json", text: JsonOutput.toJson(options), encoding: 'UTF-8')
    writeFile(file: "${place}/agent.sh", text: libraryResource('bootstrap/agent.sh'), encoding: 'UTF-8')
    List<String> words = ["THEMS_PLACE=${place}", "THEMS_COMMAND=${job.command}", 'COLUMNS=160',
                          "THEMS_LIBRARY_VERSION=${libraryResource('version.txt').trim()}"]
    withCredentials(job.credentials.collect { name, id -> file(variable: name, credentialsId: id) }) {
        withEnv(words) {
            sh(returnStatus: true, label: job.command,
               script: 'exec sh "$THEMS_PLACE/agent.sh" $THEMS_COMMAND --parameters "$THEMS_PLACE/parameters.json"')
        }
    }
}

/** Return where the package comes from when THEMS_REPOSITORY says so: from there, of the library's version. */
Object packageSource() {
    Map from = [url: env.THEMS_REPOSITORY, credentialsId: env.THEMS_REPOSITORY_CREDENTIALS ?: '']
    return scmGit(branches: [[name: env.'library.thems-jobs.version']], userRemoteConfigs: [from])
}

/** Given a report's folder, keep and show what is there, and add its texts to how the run ended. */
void keep(String folder, Map end) {
    catchError(message: 'The report could not be kept.', buildResult: 'UNSTABLE', catchInterruptions: false) {
        if (fileExists("${folder}/message.txt")) {
            end.putAll(text: readFile("${folder}/plan.txt"), message: readFile("${folder}/message.txt").trim(),
                        digest: readFile("${folder}/digest.txt").trim())
            currentBuild.description = end.text + end.message
        }
        archiveArtifacts(artifacts: "${folder}/*.*", allowEmptyArchive: true)
        junit(testResults: "${folder}/gates.xml", allowEmptyResults: true, skipMarkingBuildUnstable: true)
        publishHTML(target: [reportName: folder, reportDir: folder, reportFiles: 'report.html', keepAll: true,
                             allowMissing: true, alwaysLinkToLastBuild: true])
    }
}

/** Given how a run ended, make it the build's result; what is not known, also a lost process (-1, -2), is a failure. */
void conclude(Map end) {
    String result = [0: 'SUCCESS', 3: 'UNSTABLE', 4: 'UNSTABLE', 5: 'UNSTABLE', 143: 'ABORTED'].get(end.code)
    String message = end.message ?: "thems-jobs ${end.code < 0 ? 'was lost' : 'ended'} (${end.code}), see the log"
    if (result == 'UNSTABLE') { unstable(message) }
    if (result == 'ABORTED') { currentBuild.result = result }
    if (result in [null, 'ABORTED']) { error(message) }
}
