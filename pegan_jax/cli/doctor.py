"""The command doctor."""

import argparse
import json

from pegan_jax import machine
from pegan_jax.settings import UserError

HELP = 'Look at this machine: versions, devices, speed, extras, weights, disk; say what to type for what is missing.'
EPILOG = """The status is 1 if nothing works: JAX finds no device, or a dependency is missing or has a version that
does not fit. Otherwise it is 0: extras and weights do not matter until something needs them."""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    p.add_argument('--json', action='store_true', help='print a JSON list of {name, found, advice, broken}')


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    findings = []
    for finding in machine.examine():
        findings.append(finding)
        if not args.json:
            print(f'{finding.name:27}{finding.found}', flush=True)
            if finding.advice:
                print(f'{"":27}-> {finding.advice}')
    if args.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=1))
    if broken := [f'{finding.name} ({finding.advice})' for finding in findings if finding.broken]:
        raise UserError(f'nothing works until this is fixed: {"; ".join(broken)}.')
