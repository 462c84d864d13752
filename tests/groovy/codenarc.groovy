// What the steps and the Jenkinsfiles are held to.
ruleset {
    ruleset('rulesets/basic.xml')
    ruleset('rulesets/braces.xml')
    ruleset('rulesets/concurrency.xml')
    ruleset('rulesets/exceptions.xml')
    ruleset('rulesets/imports.xml')
    ruleset('rulesets/unused.xml') {
        UnusedVariable { ignoreVariableNames = '_' } // what carries @Library
    }
    ruleset('rulesets/groovyism.xml')
    ruleset('rulesets/formatting.xml') {
        LineLength { length = 120 }
        SpaceAroundMapEntryColon { characterAfterColonRegex = /\s/ }
    }
    ruleset('rulesets/jenkins.xml')
}
