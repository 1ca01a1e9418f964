"""Fails if a test was skipped for another reason than those that are known.

python .ci/check_skips.py JUNIT_XML PART_OF_A_KNOWN_REASON...
"""

import sys
from xml.etree import ElementTree


def unknown_skips(report: str, known: list[str]) -> list[str]:
    """Returns the skipped tests of a JUnit report, with their reasons, whose reasons hold no known part."""
    skipped = [
        (f"{case.get('classname')}.{case.get('name')}", f"{skip.get('message')} {skip.text}")
        for case in ElementTree.parse(report).iter("testcase")
        for skip in case.iter("skipped")
        if skip.get("type") != "pytest.xfail"
    ]
    return [f"{name}: {reason}" for name, reason in skipped if not any(part in reason for part in known)]


if __name__ == "__main__":
    sys.exit(
        "\n".join(["skipped, and why is not known:", *found])
        if (found := unknown_skips(sys.argv[1], sys.argv[2:]))
        else 0
    )
