"""jenkins-job-builder: the definitions in jobs/, rendered to the XML that Jenkins takes. Only here is it known."""

import logging
import os
import warnings
from pathlib import Path

from thems_jobs.core.jenkins_jobs import Definition, Definitions, mark
from thems_jobs.errors import UsageError

logging.getLogger().addHandler(logging.NullHandler())  # it logs by functions that else set logging up for everybody
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports what is going to be removed from setuptools, and says so
    from jenkins_jobs.config import JJBConfig
    from jenkins_jobs.constants import MAGIC_MANAGE_STRING
    from jenkins_jobs.loader import load_files
    from jenkins_jobs.registry import ModuleRegistry
    from jenkins_jobs.roots import Roots
    from jenkins_jobs.xml_config import XmlJobGenerator

COMMON, FOLDER = "defaults", "folder"  # files that are no jobs
REMEDY = "Nothing was changed."


def read_definitions(folder: Path) -> Definitions:
    """Given the folder of the definitions, return them rendered, and what cannot be rendered with the reason.

    Raise UsageError if nothing can be: the common part, or the folder's definition, is missing or broken.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    missing = [f"{name}.yaml is missing." for name in (COMMON, FOLDER) if name not in files]
    if missing:
        raise UsageError("wrong-file", str(folder), missing, REMEDY)
    try:
        root = _render(files[COMMON], files[FOLDER])
    except Exception as error:
        raise UsageError("wrong-file", str(folder), [f"{FOLDER}.yaml: {_in_words(error, folder)}"], REMEDY) from error
    jobs, broken = list[Definition](), dict[str, str]()
    for source in files.keys() - {COMMON, FOLDER}:
        try:
            job = _render(files[COMMON], files[source])
        except Exception as error:  # whatever a library does with a bad file, the other files are done
            broken[source] = _in_words(error, folder)
            continue
        if job.name == f"{root.name}/{source}":
            jobs.append(job)
        else:
            broken[source] = f"it defines {job.name}; a file is named after its job, which is in {root.name}."
    return Definitions(root, tuple(sorted(jobs, key=lambda job: job.name)), broken)


def _render(common: Path, path: Path) -> Definition:
    """Given two files of definitions, return the one job in them as XML."""
    config = JJBConfig(os.devnull)  # not what /etc or a home folder says
    config.validate()
    roots = Roots(config)
    load_files(config, roots, [common, path])
    registry = ModuleRegistry(config, [])
    registry.set_macros(roots.macros)
    jobs = roots.generate_jobs()
    if len(jobs) != 1:
        raise ValueError(f"it defines {len(jobs)} jobs, expected one")
    registry.amend_job_dicts(jobs)
    (job,) = XmlJobGenerator(registry).generateXML(jobs)
    description = job.xml.find("description")
    said = (description.text or "").replace(MAGIC_MANAGE_STRING, "").strip()
    description.text = f"{said}\n\n{mark(path.stem)}".strip()
    return Definition(job.name, path.stem, job.output().decode())


def _in_words(error: Exception, folder: Path) -> str:
    """Given why a file cannot be rendered, return it in one line, without the path of this host."""
    lines = getattr(error, "lines", None) or str(error).splitlines() or [type(error).__name__]
    said = [line for line in lines if line.strip("^ ") and not line.startswith("    ")]  # no excerpts of the file
    return " ".join(" ".join(said).split()).replace(f"{folder.resolve()}/", "").rstrip(".:") + "."
