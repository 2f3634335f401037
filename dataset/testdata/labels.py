# Writes parquet/labels with datasets 5.2.0 and pyarrow 26.0.1: images with lists of labels, and expected.json, the class
# names and the labels of each file as pyarrow reads them. A null stands for a row without a list.
# Run: python3 labels.py   (only to write the files again; no test needs Python)
import io, json
import datasets, pyarrow as pa, pyarrow.parquet as pq
from PIL import Image

def png(level):
    b = io.BytesIO()
    Image.new('L', (2, 2), level).save(b, 'PNG')
    return {'bytes': b.getvalue(), 'path': None}

names = ['cat', 'dog', 'eel', 'fox']
lists = [[0, 2], [], [1], [3, 0, 1], [2], [0, 1, 2, 3], [], [3]]
images = [png(30 * i) for i in range(len(lists))]
features = datasets.Features({'image': datasets.Image(), 'labels': datasets.List(datasets.ClassLabel(names=names))})
datasets.Dataset.from_dict({'image': images, 'labels': lists}, features=features).to_parquet('parquet/labels/hub.parquet')

image = pa.array(images, pa.struct([('bytes', pa.binary()), ('path', pa.string())]))
texts = [[names[i] for i in l] for l in lists]
def write(name, labels, kind, **k):
    pq.write_table(pa.table({'image': image, 'labels': pa.array(labels, kind)}), f'parquet/labels/{name}.parquet', **k)
write('v2', texts, pa.list_(pa.string()), data_page_version='2.0', compression='zstd', row_group_size=3)
write('plain', texts, pa.list_(pa.string()), use_dictionary=False, compression='none')
write('int32', lists, pa.list_(pa.int32()), data_page_version='2.0', compression='none', write_batch_size=2, data_page_size=1)
write('null', texts[:5] + [None] + texts[6:], pa.list_(pa.string()))
write('missing', [['cat', None]] + texts[1:], pa.list_(pa.string()))
write('nested', [[t] for t in texts], pa.list_(pa.list_(pa.string())))

found = {}
for name in ['hub', 'v2', 'plain', 'int32', 'null']:
    labels = pq.read_table(f'parquet/labels/{name}.parquet').column('labels').to_pylist()
    found[name] = [None if l is None else [str(names[i]) if name == 'hub' else str(i) for i in l] for l in labels]
json.dump(found, open('parquet/labels/expected.json', 'w'), indent=0)
