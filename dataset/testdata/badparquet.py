# Writes parquet/bad/ with pyarrow 26.0.1: parquet files that hold something else than images and labels.
# Run: python3 badparquet.py   (only to write the files again; no test needs Python)
import base64, json, os
import pyarrow as pa, pyarrow.parquet as pq

PNG = base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==')
IMAGE = pa.struct([('bytes', pa.binary()), ('path', pa.string())])
os.makedirs('parquet/bad', exist_ok=True)

def images(*values):
    return pa.array([{'bytes': v, 'path': f'{i}.png'} for i, v in enumerate(values)], type=IMAGE)

def put(name, **columns):
    pq.write_table(pa.table(columns), f'parquet/bad/{name}.parquet')

good, labels = images(*[PNG] * 4), pa.array(['a', 'b', 'a', 'b'])
put('structlabel', image=good, label=pa.array([{'id': i, 'name': 'x'} for i in range(4)]))
put('listofstructs', image=good, label=pa.array([[{'id': i}] for i in range(4)]))
put('listoflists', image=good, label=pa.array([[[i]] for i in range(4)]))
put('maplabel', image=good, label=pa.array([[('a', i)] for i in range(4)], type=pa.map_(pa.string(), pa.int64())))
put('boollabel', image=good, label=pa.array([True, False] * 2))
put('datelabel', image=good, label=pa.array([1, 2, 1, 2], type=pa.date32()))
put('timelabel', image=good, label=pa.array([1, 2, 1, 2], type=pa.timestamp('ms')))
put('decimallabel', image=good, label=pa.array([1, 2, 1, 2], type=pa.decimal128(5)))
put('noimage', number=pa.array([1, 2, 3, 4]), label=labels)
put('stringimage', image=pa.array(['1.png', '2.png', '3.png', '4.png']), label=labels)
put('listimage', image=pa.array([[{'bytes': PNG, 'path': None}]] * 4, type=pa.list_(IMAGE)), label=labels)
put('numbersimage', image=pa.array([list(PNG[:8])] * 4, type=pa.list_(pa.uint8())), label=labels)
put('fixedimage', image=pa.array([PNG] * 4, type=pa.binary(len(PNG))), label=labels)
put('nullbytes', image=pa.array([{'bytes': PNG, 'path': None}, {'bytes': None, 'path': '1.png'}, None, {'bytes': b'', 'path': None}], type=IMAGE), label=labels)
put('pathonly', image=images(None, None, None, None), label=labels)
put('norows', image=images(), label=pa.array([], type=pa.string()))
put('integerlabel', image=good, label=pa.array([0, 1, 0, 1]))
put('stringlabel', image=good, label=labels)
table = pa.table({'image': good, 'label': pa.array([0, 1, 2, 1])})
names = {'info': {'features': {'label': {'names': ['a', 'b'], '_type': 'ClassLabel'}}}}
pq.write_table(table.replace_schema_metadata({'huggingface': json.dumps(names)}), 'parquet/bad/outofrange.parquet')
