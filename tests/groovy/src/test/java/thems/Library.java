package thems;

/** Stands for the annotation by which a Jenkinsfile names a library. */
public @interface Library {
    String[] value();
}
