"""Writes the configurations of this folder: timm.json and transformers.json.

python3 make.py, with timm 1.0.31 and transformers 5.24. The tests need no Python.
"""
import pathlib
import tempfile

import timm
import transformers

names = ["zebra", "ant", "mouse", "cow"]  # in the order of the rows of the head, not sorted
here = pathlib.Path(__file__).parent

model = timm.create_model("vit_tiny_patch16_224", num_classes=4)
with tempfile.TemporaryDirectory() as folder:
    timm.models.save_for_hf(model, folder, model_config={"label_names": names}, safe_serialization=True)
    (here / "timm.json").write_text((pathlib.Path(folder) / "config.json").read_text() + "\n")

config = transformers.ViTConfig(num_hidden_layers=1, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})
(here / "transformers.json").write_text(config.to_json_string())

# The names that transformers writes if the user gives none.
bare = transformers.ViTConfig(num_labels=4).to_dict()["id2label"]
assert list(bare.values()) == ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]
