"""Seconds from a training command to its first step: with nothing compiled before, and with all of it compiled.

python benchmarks/startup.py [--config cips:ffhq256 stylegan3:t,images256] [--batch 1] [--json out.json]

Every row starts `train` twice with one cache of compiled programs, empty at first, and kills it after its first step,
whose program compiles while the first picture is drawn.
Pictures of one image, one before the step and one behind it, are in. Images are procedural worlds. How long a step
takes is a matter of the device, not of the start: the batch is as small as systems allow.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import bench

PUBLISHED = (
    'cips:ffhq256', 'creps:ffhq512', 'dcgan:celeba64', 'deepfill', 'mspie:a', 'pconv', 'pggan:celeba128',
    'stylegan2:images256', 'stylegan3:t,images256', 'stylegan3:r,images256',
)  # fmt: skip


def settings(batch: int) -> dict[str, object]:
    """Fields that differ from the configuration's. The run has one step: metrics of longer ones come a step late."""
    return {
        'data.tfds': 'worlds', 'data.folder': None, 'data.num_worlds': 64, 'train.batch_size': batch,
        'train.sample_grid': (1, 1), 'train.keep_best': 0, 'train.total_kimg': batch / 1000,
    }  # fmt: skip


def start(config: str, batch: int, folder: pathlib.Path) -> dict[str, float]:
    """Seconds until the run waits for the program of its first step, if it does, and until that step is done."""
    workdir = pathlib.Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, '-m', 'pegan_jax', 'train', '--config', config, '--workdir', workdir]
    command += [f'--config.{name}={value}' for name, value in settings(batch).items()]
    began, due, heard, log = time.time(), None, '', workdir / 'metrics.jsonl'
    environment = os.environ | {'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache')}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        for line in run.stdout:
            heard += line
            if due is None and 'compiling the step' in line:
                due = time.time() - began
                while not log.exists() or not log.read_text():
                    if run.poll() is not None:
                        break
                    time.sleep(0.05)
                run.kill()
    if not log.exists():
        raise SystemExit(f'{config} ended before its first step:\n{heard[-3000:]}')
    done = json.loads(log.read_text().splitlines()[0])['time'] - began
    return {'due': due or done, 'done': done}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', nargs='+', default=PUBLISHED, help='default: one published size of every system')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--json', type=pathlib.Path, help='also write the numbers here')
    args = parser.parse_args()
    everything = {'machine': bench.machine(), 'batch': args.batch, 'rows': {}}
    print('; '.join(map(str, everything['machine'].values())))
    for config in args.config:
        with tempfile.TemporaryDirectory() as folder:
            cold, warm = (start(config, args.batch, pathlib.Path(folder)) for _ in range(2))
        everything['rows'][config] = {'cold': cold, 'warm': warm}
        cells = [
            f'{name}: {took["due"]:.1f} s until it is waited for, {took["done"]:.1f} s until it is done'
            for name, took in everything['rows'][config].items()
        ]
        print(config, *cells, sep=' | ', flush=True)
    if args.json:
        args.json.write_text(json.dumps(everything, indent=2))


if __name__ == '__main__':
    main()
