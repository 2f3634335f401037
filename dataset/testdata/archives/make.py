# Writes the same 18 images with the programs that people use: in class folders, in archives of GNU
# tar 1.34, Info-ZIP 3.0 and Python 3.11, in shards of webdataset 1.0.2, and in parquet files of
# datasets 5.2.0 with the card that its push_to_hub writes (Pillow 13.0.0, pyarrow 26.0.1).
# expected.json holds the class and the SHA-256 of each image.
# Run: python3 make.py   (only to write the files again; no test needs Python)
import hashlib, io, json, os, shutil, subprocess, tarfile, zipfile
import numpy as np, pyarrow as pa, webdataset
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData, DatasetCard
from PIL import Image as Picture

CLASSES = ['blue', 'green', 'red']
SIZES = {'train': 4, 'val': 1, 'test': 1}
for name in os.listdir('.'):
    if name != 'make.py':
        shutil.rmtree(name) if os.path.isdir(name) else os.remove(name)

rng = np.random.default_rng(0)
images = []  # split, class id, name of the file, bytes
for split, n in SIZES.items():
    for label, name in enumerate(CLASSES):
        for i in range(n):
            a = rng.integers(0, 90, (12, 12, 3))
            a[..., 2 - label] += 150
            data = io.BytesIO()
            Picture.fromarray(a.astype('uint8')).save(data, 'PNG')
            images.append((split, label, f'{len(images):04d}.png', data.getvalue()))

for split, label, name, data in images:
    os.makedirs(f'folder/{split}/{CLASSES[label]}', exist_ok=True)
    open(f'folder/{split}/{CLASSES[label]}/{name}', 'wb').write(data)
json.dump({f'{s}/{CLASSES[c]}/{n}': hashlib.sha256(d).hexdigest() for s, c, n, d in images}, open('expected.json', 'w'), indent=1)

def run(*command, cwd='.'):
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)

fixed = ['--sort=name', '--mtime=2026-01-01', '--owner=0', '--group=0', '--numeric-owner']
run('tar', *fixed, '--format=gnu', '-cf', 'gnu.tar', '-C', 'folder', '.')
run('tar', *fixed, '--format=gnu', '-czf', 'gnu.tar.gz', '-C', 'folder', '.')
run('tar', *fixed, '--format=pax', '-cf', 'inside.tar', 'folder')  # in the folder "folder"
with pa.CompressedOutputStream('gnu.tar.zst', 'zstd') as f:
    f.write(open('gnu.tar', 'rb').read())
run('zip', '-qrX', '../infozip.zip', '.', cwd='folder')
run('zip', '-qrX0', 'stored.zip', 'folder')
run('zip', '-qrX', '-P', 'secret', 'encrypted.zip', 'folder/test')
with zipfile.ZipFile('python.zip', 'w', zipfile.ZIP_DEFLATED) as z:
    for split, label, name, data in images:
        z.writestr(zipfile.ZipInfo(f'{split}/{CLASSES[label]}/{name}', (2026, 1, 1, 0, 0, 0)), data)
# a long name needs more than one header, in the forms of PAX and GNU
for form, kind in ('pax', tarfile.PAX_FORMAT), ('gnu', tarfile.GNU_FORMAT):
    with tarfile.open(f'long-{form}.tar', 'w', format=kind) as t:
        for split, label, name, data in images:
            info = tarfile.TarInfo(f'{split}/{CLASSES[label]}/' + 'long-' * 40 + name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))

# shards, whose samples are not in the order of the classes
os.makedirs('shards')
for split in SIZES:
    rows = [r for r in images if r[0] == split]
    rng.shuffle(rows)
    with webdataset.ShardWriter(f'shards/{split}-%06d.tar', maxcount=6, verbose=0, mtime=0) as w:
        for _, label, name, data in rows:
            w.write({'__key__': name[:4], 'png': data, 'cls': int(label), 'json': {'label': CLASSES[int(label)], 'id': int(name[:4])}})
open('shards/classnames.txt', 'w').write('\n'.join(CLASSES) + '\n')

features = Features({'image': Image(), 'label': ClassLabel(names=CLASSES), 'id': Value('int32')})
names = {'train': 'train', 'val': 'validation', 'test': 'test'}
parts = DatasetDict({names[s]: Dataset.from_list(
    [{'image': {'bytes': d, 'path': n}, 'label': c, 'id': int(n[:4])} for t, c, n, d in images if t == s], features=features) for s in SIZES})
os.makedirs('hub/data')
for split, part in parts.items():
    part.to_parquet(f'hub/data/{split}-00000-of-00001.parquet')
info = parts['train'].info.copy()
card = DatasetCardData()
DatasetInfosDict({'default': info}).to_dataset_card_data(card)
MetadataConfigs({'default': {'data_files': [{'split': s, 'path': f'data/{s}-*'} for s in parts]}}).to_dataset_card_data(card)
open('hub/README.md', 'w').write(str(DatasetCard(f'---\n{card}\n---\n')))
