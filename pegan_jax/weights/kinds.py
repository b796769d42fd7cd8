"""What a file is, by its first bytes and the names in it, so that a refusal can say so, and what to do."""

import re
from collections.abc import Collection, Iterable

HEAD = 512  # bytes that are looked at

_CONVERTED = 'CIPS, StyleGAN2, StyleGAN3, MS-PIE, SinGAN, PGGAN, DCGAN and DeepFillv2'

# First bytes: what the file is, and what to do.
_FIRST_BYTES = (
    (
        rb'version https://git-lfs\.github\.com/spec',
        'is a Git LFS pointer, a few lines of text in place of the file; fetch the file itself with "git lfs pull".',
    ),
    (
        rb'\s*<(!doctype html|html|head|\?xml)',
        'is a web page that was saved in place of a download; open the address in a browser and save the file itself '
        '(large files of cloud drives ask for a confirmation first).',
    ),
    (rb'\s*\{', 'is JSON text, not a checkpoint; give the file with the weights.'),
    (
        rb'\x89HDF\r\n\x1a\n',
        'is an HDF5 file, as Keras saves; it is not read. The official files of the supported programs are .pt, .pth, '
        '.pkl, .safetensors or TensorFlow checkpoints.',
    ),
    (rb'\x1f\x8b', 'is compressed by gzip; unpack it first: gunzip FILE, or tar -xzf FILE.'),
    (rb'BZh|\xfd7zXZ\x00', 'is compressed by bzip2 or xz; unpack it first, with tar -xf FILE.'),
    (rb'7z\xbc\xaf\x27\x1c|Rar!\x1a\x07', 'is an archive (7z or RAR); unpack it and give the file with the weights.'),
    (rb'.{257}ustar', 'is a tar archive; unpack it with tar -xf FILE and give the file with the weights.'),
    (rb'\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP', 'is an image, not a checkpoint.'),
    (rb'\x93NUMPY', 'is one NumPy array (.npy), not a checkpoint.'),
    (rb'GGUF|GGML', 'is a language model (GGUF); this library reads generators of images.'),
    (rb'\x08[\x00-\x0f].{0,16}(pytorch|tf2onnx|onnx)', 'is an ONNX graph, from which weights cannot be told apart.'),
)

# Names of arrays: the program that writes them, whose files are known but not converted.
_PROGRAMS = (
    (r'model\.diffusion_model\.|(down|up)_blocks\.\d+\.(attentions|resnets)', 'a diffusion model (Stable Diffusion)'),
    (r'decoder\.convs\.\d+\.conv\.weight|encoder\.(input_layer|body)\.', 'an encoder into StyleGAN2 (pSp, e4e)'),
    (r'stylegan_decoder\.|final_extend_linear', 'GFPGAN'),
    (r'(body|RRDB_trunk)\.\d+\.(rdb|RDB)1\.', 'Real-ESRGAN'),
    (r'generator\.model\.\d+\.(ffc|conv1\.ffc)|.*convg2g\.', 'LaMa'),
    (r'Mixed_[567][a-e]\.', 'an Inception-v3 classifier'),
    (r'features\.\d+\.(weight|bias)|classifier\.\d+\.weight', 'a VGG or AlexNet classifier'),
    (r'layer[1-4]\.0\.conv1\.weight', 'a ResNet classifier'),
    (
        r'blocks\.0\.attn\.qkv\.weight|vision_model\.|encoder\.layer\.0\.attention\.attention\.',
        'a vision transformer (DINO, CLIP)',
    ),
    (r'netG_[AB]\.|model\.\d+\.conv_block\.\d+\.weight', 'CycleGAN or pix2pix'),
    (r'progression\.\d+\.|b\d+\.(conv[01]\.)?affine', 'a StyleGAN of another program'),
)


def refusal(head: bytes) -> str | None:
    """Why a file with this beginning cannot be read: what it is, and what to do; None if it may be read."""
    if not head:
        return 'is empty; download it again.'
    if is_safetensors(head):
        return None
    return next((text for start, text in _FIRST_BYTES if re.match(start, head, re.DOTALL | re.IGNORECASE)), None)


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins like safetensors: the length of a header, then the header, which is JSON."""
    return len(head) > 9 and head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < 2**27


def refusal_of_zip(members: Iterable[str]) -> str:
    """What a ZIP without a torch pickle is, and what to do."""
    members = list(members)
    if members and all(name.endswith('.npy') for name in members):
        return 'is a NumPy archive (.npz), which tells no program; files of torch, TensorFlow and safetensors are read.'
    if any(name.endswith(('.pt', '.pth', '.pkl', '.safetensors', '.index')) for name in members):
        return 'is a ZIP with checkpoints inside; unpack it and give one of them.'
    if any(name.lower().endswith(('.png', '.jpg', '.jpeg', '.webp')) for name in members):
        return 'is a ZIP of images, a data set; train on it with --config.data.folder=FILE.'
    return 'is a ZIP file without a torch checkpoint (it has no data.pkl); unpack it and look for .pt, .pth or .pkl.'


def program(names: Collection[str]) -> str:
    """What a file with arrays of these names, safe to print, seems to be if no importer recognises it."""
    for pattern, what in _PROGRAMS:
        if any(re.search(rf'(^|\.){pattern}', name) for name in names):
            return f'looks like {what}, which is not converted; what is converted: {_CONVERTED}.'
    first = ', '.join(list(names)[:4])
    return f'is not of a program that is converted: {_CONVERTED}. Its arrays begin with {first}.'
