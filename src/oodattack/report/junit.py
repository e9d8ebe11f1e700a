"""The outcomes of requirements as JUnit XML, which continuous integration shows as tests."""

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from oodattack.auditing.required import Outcome
from oodattack.storage.files import write_bytes

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that XML 1.0 excludes


def write_junit(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write one test case per requirement, detector and set of starts; detectors are the classes.

    Raises:
        WriteError: if the file cannot be written.

    >>> import tempfile
    >>> from oodattack.settings.requirement import parse_requirement
    >>> outcome = Outcome(parse_requirement("auroc>=0.7@l2:5"), "KNN", "mnist", "failed", "AUROC 0.2")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_junit(Path(folder, "junit.xml"), [outcome])
    ...     print(Path(folder, "junit.xml").read_text())
    <?xml version='1.0' encoding='utf-8'?>
    <testsuites>
      <testsuite name="oodattack audit" tests="1" failures="1" errors="0" skipped="0">
        <testcase classname="KNN" name="auroc&gt;=0.7@l2:5 from mnist">
          <failure message="AUROC 0.2" />
        </testcase>
      </testsuite>
    </testsuites>
    """
    counts = {status: sum(outcome.status == status for outcome in outcomes) for status in ("failed", "skipped")}
    root = ET.Element("testsuites")
    suite = ET.SubElement(
        root,
        "testsuite",
        name="oodattack audit",
        tests=str(len(outcomes)),
        failures=str(counts["failed"]),
        errors="0",
        skipped=str(counts["skipped"]),
    )
    for outcome in outcomes:
        name = f"{outcome.requirement.text} from {outcome.starts}"
        case = ET.SubElement(suite, "testcase", classname=_xml(outcome.detector), name=_xml(name))
        if outcome.status == "met":
            ET.SubElement(case, "system-out").text = _xml(outcome.text)
        else:
            tag = "failure" if outcome.status == "failed" else "skipped"
            ET.SubElement(case, tag, message=_xml(outcome.text))
    ET.indent(root)
    write_bytes(path, ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _xml(text: str) -> str:
    return _NOT_XML.sub("?", text)
