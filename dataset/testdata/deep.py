# Prints how Pillow, torchvision and OpenCV bring the images of 16 bits per channel in decode/ to 8 bits: which of the high byte,
# value * 255 / 65535 rounded, and value clipped at 255 fits all pixels. Run: python3 deep.py   (no test needs Python)
# With Pillow 13.0.0, torchvision 0.29.2 and OpenCV 5.0.0:
#   Pillow       RGB, RGBA: high byte; grey: clipped
#   torchvision  to_dtype(decode_image(...), uint8, scale=True): high byte
#   OpenCV       imread: high byte; RGB of TIFF: rounded
import cv2, numpy as np, torch
from PIL import Image
from torchvision.io import decode_image
from torchvision.transforms.v2.functional import to_dtype

for name in ['grey16.png', 'rgb16.png', 'rgba16.png', 'grey16le.tif', 'rgb16le.tif', 'rgba16le.tif']:
    path = 'decode/' + name
    values = cv2.imread(path, cv2.IMREAD_UNCHANGED).astype(int)
    values = values[..., :3] if values.ndim == 3 else values[..., None].repeat(3, -1)
    read = {'Pillow': np.asarray(Image.open(path).convert('RGB'))[..., ::-1], 'OpenCV': cv2.imread(path)}
    if name.endswith('.png'):
        t = to_dtype(decode_image(path, mode='RGB'), torch.uint8, scale=True)
        read['torchvision'] = t.permute(1, 2, 0).numpy()[..., ::-1]
    forms = {'high byte': values >> 8, 'rounded': np.round(values * 255 / 65535), 'clipped': values.clip(0, 255)}
    print(name, {reader: [form for form, want in forms.items() if (pixels == want).all()] for reader, pixels in read.items()})
