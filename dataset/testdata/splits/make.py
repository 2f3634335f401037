"""Writes splits.json with datasets 5.2.0: the split that the datasets library of Hugging Face gives to a folder name.

Only to write the file again; no test needs Python: pip install datasets pillow; python make.py
"""

import json
import pathlib
import tempfile

from datasets.data_files import get_data_patterns, DataFilesDict

NAMES = """
train training val valid validation dev test testing eval evaluation
training_set test_set train_data val_data images_train images_val train_set valid_set
asl_alphabet_train asl_alphabet_test seg_train seg_test seg_pred fruits-training test-multiple_fruits
train2017 val2017 2017train 3test my.train.images test.v2 train-01 dev_set eval-images
trainset testset trainval pretrain contest latest testimonial evaluate develop trains
train_test validation_training
cat dog unknown images data
""".split() + ["train images", "my test", "test 2", "tést", "étest", "test,1", "(test)"]

expected = {}
for name in NAMES:
    with tempfile.TemporaryDirectory() as root:
        folder = pathlib.Path(root, name, "cat")
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(b"x")
        try:
            patterns = get_data_patterns(root)
            files = DataFilesDict.from_patterns(patterns, base_path=root)
            found = sorted(str(s) for s, f in files.items() if f)
        except FileNotFoundError:
            found = []
        # The library reads every other file as training data. Is the name the reason?
        if found == ["train"] and patterns["train"] == ["**"]:
            found = []
        expected[name] = found

pathlib.Path(__file__).with_name("splits.json").write_text(
    json.dumps(expected, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
)
