"""The CloudFormation template under scanners and rules: see tests/template, whose `check` does the same by hand.

Nothing here has seen the stack run: these are properties of its text, evaluated for several sets of parameters.
"""

import sys
from pathlib import Path

import engines
from lab import Failed, test

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "template"))

import scan  # noqa: E402

engines.ENGINES.update(
    {
        "cfn_lint": engines.Engine(scan.install_cfn_lint),
        "checkov": engines.Engine(scan.install_checkov),
        "cfn_guard": engines.Engine(scan.install_cfn_guard),
    }
)


def none_of(problems):
    """Fails where there are problems, and tells what could not be tried."""
    import verify

    for note in verify.notes:
        print(f"     {note}")
    verify.notes.clear()
    if problems:
        raise Failed(f"{len(problems)} problems:" + "".join(f"\n       {problem}" for problem in problems))


@test("cfn_lint", limit_s=600)
def template_lint(lab):
    """cfn-lint finds nothing in the template, nor in what is sent, in three regions; in a broken one it does."""
    import verify

    none_of(verify.lint_problems(lab.folder))


@test("cfn_lint", "checkov", limit_s=600)
def template_checkov(lab):
    """checkov finds nothing that has no reason written down, and each of its checks fails on a weakened template."""
    import verify

    none_of(verify.checkov_problems(lab.folder))


@test("cfn_lint", "checkov", "cfn_guard", limit_s=600)
def template_rules(_):
    """Our rules hold in every scenario, each fails on its mutations and alone, and MATRIX.md tells of all types."""
    import matrix
    import verify

    none_of(verify.rule_problems() + matrix.problems() + matrix.out_of_date())


@test("cfn_lint", "cfn_guard", limit_s=600)
def template_mistakes(_):
    """Each usual mistake, and each trap that a template can show, makes a rule fail on a template having it."""
    import verify

    none_of(verify.mistake_problems())


@test("cfn_lint", limit_s=600)
def template_limits(_):
    """What is sent stays within CloudFormation's numbers and sizes, and it is said how it can be sent."""
    import verify

    none_of(verify.limit_problems())
