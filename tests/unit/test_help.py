"""Help texts are whole statements: every option has one, and none begins in the middle of a sentence."""

import argparse

import pytest

from pegan_jax import cli

(CHOICES,) = (a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))


@pytest.mark.parametrize('command', CHOICES.choices)
def test_every_option_says_what_it_is(command):
    for action in CHOICES.choices[command]._actions:
        name = action.option_strings or action.dest
        assert action.help and len(action.help.split()) > 1, name
        assert not action.help.startswith(('of ', 'as ', 'per ', 'through ', 'default')), f'{name}: {action.help}'


@pytest.mark.parametrize('command', cli.COMMANDS)
def test_a_command_says_what_it_does_in_a_sentence(command):
    assert cli.COMMANDS[command].HELP.endswith('.') and len(cli.COMMANDS[command].HELP) <= 120
