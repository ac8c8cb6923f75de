"""`check`: prints a line for each thing that a start depends on."""

from __future__ import annotations

import argparse

from bot.app.preflight import run_checks
from bot.base.logging_setup import print_line
from bot.cli.exit_codes import exit_code_for
from bot.config import Settings


def check_setup(settings: Settings, _options: argparse.Namespace) -> int:
    """Print a line for each thing that was looked at; return the first problem's exit code."""
    code = 0
    for finding in run_checks(settings):
        print_line(f"{finding.label:<8} {finding.subject}: {finding.text}")
        if finding.error and code == 0:
            code = exit_code_for(finding.error)
    return code
