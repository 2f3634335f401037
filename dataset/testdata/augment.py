# Writes augment/ with torchvision 0.29.2, torch 2.15.0, Pillow 13.0.0 and scipy 1.17.1: photo.jpg, a picture that is computed by a
# formula, expected.json, what torchvision makes of it with given parameters and how it draws parameters, and mixup.png.
# A CRC-32 is that of the RGB bytes of the result, row by row.
# Run: python3 augment.py   (only to write the files again; no test needs Python)
import json, math, zlib
import numpy as np, scipy.stats, torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import autoaugment, functional as F, v2

def picture(w, h, seed):
    y, x = np.mgrid[0:h, 0:w].astype(float)
    noise = np.random.default_rng(seed).normal(0, 6, (h, w, 3))
    a = np.stack([120 + 90 * np.sin(x / 7 + y / 11), 127 + 120 * np.cos(x / 5 - y / 9), 20 + (x * 3 + y * 5) % 200], -1)
    return Image.fromarray(np.clip(a + noise, 0, 255).astype('uint8'))

picture(72, 56, 1).save('augment/photo.jpg', quality=92)
photo = Image.open('augment/photo.jpg').convert('RGB')
square = photo.crop((3, 2, 51, 50))
crc = lambda image: zlib.crc32(image.convert('RGB').tobytes())
out = {}

# RandAugment: every operation, at bins of the magnitude, with both signs, on an image that is no square.
fill = [124, 116, 104]
space = transforms.RandAugment()._augmentation_space(31, (photo.height, photo.width))
out['operations'] = []
for name, (magnitudes, signed) in space.items():
    for bin in (0, 3, 9, 14, 22, 30) if magnitudes.ndim else (9,):
        for sign in (1, -1) if signed else (1,):
            m = float(magnitudes[bin].item()) if magnitudes.ndim else 0.0
            image = autoaugment._apply_op(photo, name, sign * m, transforms.InterpolationMode.NEAREST, fill)
            out['operations'].append(dict(name=name, magnitude=bin, negative=sign < 0, crc=crc(image)))

# ColorJitter: given factors, one operation after the other in the order of fn_idx.
adjust = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]
out['jitter'] = []
cases = [([i], [f] * 4) for i in range(3) for f in (0.0, 0.13, 0.7, 1.0, 1.35, 2.6)]
cases += [([3], [0, 0, 0, f]) for f in (-0.5, -0.21, -0.003, 0.0, 0.05, 0.3, 0.5)]
cases += [([0, 1, 2, 3], [0.8, 1.3, 0.6, 0.07]), ([3, 1, 0, 2], [1.22, 0.71, 1.37, -0.09]), ([2, 3, 1, 0], [1.4, 0.6, 1.1, 0.1])]
for order, factors in cases:
    image = photo
    for i in order:
        image = adjust[i](image, factors[i])
    out['jitter'].append(dict(order=order, factors=factors, crc=crc(image)))

# Crop of a box, resized in two steps, because Pillow 13 sometimes does the columns first.
out['crops'] = []
for x, y, w, h in [(0, 0, 72, 56), (5, 3, 40, 30), (60, 10, 12, 44), (10, 40, 50, 9), (33, 22, 1, 1), (20, 11, 32, 32)]:
    image = F.crop(photo, y, x, h, w).resize((32, h), Image.BICUBIC).resize((32, 32), Image.BICUBIC)
    out['crops'].append(dict(box=[x, y, w, h], crc=crc(image)))

# Erased boxes.
out['erased'] = []
for x, y, w, h in [(0, 0, 10, 4), (30, 20, 42, 36), (71, 55, 1, 1), (12, 7, 1, 30)]:
    t = F.erase(F.pil_to_tensor(photo), y, x, h, w, torch.tensor(fill, dtype=torch.uint8)[:, None, None])
    out['erased'].append(dict(box=[x, y, w, h], crc=crc(F.to_pil_image(t))))
out['fill'] = fill

# Draws of RandomResizedCrop and RandomErasing: means and standard deviations, and boxes that are always the same.
def moments(boxes, width, height):
    rows = [(w * h / (width * height), math.log(w / h), x / max(1, width - w), y / max(1, height - h)) for x, y, w, h in boxes]
    a = np.array(rows)
    return dict(mean=a.mean(0).tolist(), sd=a.std(0).tolist())
torch.manual_seed(0)
out['draws'], n = [], 10000
for width, height, scale, ratio in [(300, 200, [0.08, 1], [3/4, 4/3]), (400, 400, [0.5, 1], [3/4, 4/3]), (500, 300, [0.6, 1], [0.5, 2]),
                                    (160, 400, [0.2, 0.9], [3/4, 4/3])]:
    image = torch.empty(3, height, width)
    boxes = [transforms.RandomResizedCrop.get_params(image, scale, ratio) for _ in range(n)]
    out['draws'].append(dict(of='crop', width=width, height=height, scale=scale, ratio=ratio, n=n, **moments([(j, i, w, h) for i, j, h, w in boxes], width, height)))
boxes = [transforms.RandomErasing.get_params(torch.empty(3, 224, 224), (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(n)]
out['draws'].append(dict(of='erase', width=224, height=224, scale=[0.02, 0.33], ratio=[0.3, 3.3], n=n, **moments([(j, i, w, h) for i, j, h, w in boxes], 224, 224)))
out['fallback'] = []
for width, height, scale, ratio in [(400, 40, [0.9, 1], [3/4, 4/3]), (40, 400, [0.9, 1], [3/4, 4/3]), (100, 90, [1, 1], [1, 1]), (90, 100, [1, 1], [1, 1]),
                                    (1, 1000, [0.5, 1], [3/4, 4/3]), (101, 33, [1, 1], [1.9, 2.1])]:
    boxes = {transforms.RandomResizedCrop.get_params(torch.empty(3, height, width), scale, ratio) for _ in range(200)}
    (i, j, h, w), = boxes
    out['fallback'].append(dict(width=width, height=height, scale=scale, ratio=ratio, box=[j, i, w, h]))

# MixUp and CutMix of four pictures with given lambda and centre. mixup.png holds the four results of MixUp side by side.
four = torch.stack([F.pil_to_tensor(square)] + [F.pil_to_tensor(picture(48, 48, s)) for s in (2, 3, 4)])
Image.fromarray(np.concatenate(four.permute(0, 2, 3, 1).numpy(), 1)).save('augment/four.png', optimize=True)
labels = torch.arange(4)
class Fixed:
    def __init__(self, lam): self.lam = lam
    def sample(self, shape): return torch.tensor([self.lam])
mixup = v2.MixUp(num_classes=4)
mixup._dist = Fixed(0.3125)
images, targets = mixup(four.float(), labels)
Image.fromarray(np.concatenate(images.round().to(torch.uint8).permute(0, 2, 3, 1).numpy(), 1)).save('augment/mixup.png', optimize=True)
out['mixup'] = dict(share=0.3125, targets=targets.tolist())
out['cutmix'] = []
randint = torch.randint
for lam, cx, cy in [(0.7, 20, 30), (0.2, 3, 44), (0.99, 47, 0), (1.0, 10, 10), (0.0, 24, 24), (0.5, 0, 0)]:
    cutmix = v2.CutMix(num_classes=4)
    cutmix._dist = Fixed(lam)
    centre = iter([cx, cy])
    torch.randint = lambda high, size: torch.tensor([next(centre)])
    images, targets = cutmix(four, labels)
    torch.randint = randint
    image = Image.fromarray(np.concatenate(images.permute(0, 2, 3, 1).numpy(), 1))
    out['cutmix'].append(dict(share=lam, centre=[cx, cy], crc=crc(image), targets=targets.tolist()))
# Quantiles of Beta(alpha, alpha).
at = [0.01, 0.05, 0.1, 0.25, 0.4, 0.5, 0.75, 0.9, 0.99]
out['beta'] = dict(at=at, quantiles=[dict(alpha=a, values=scipy.stats.beta.ppf(at, a, a).tolist()) for a in (0.2, 0.8, 1.0, 4.0)])

with open('augment/expected.json', 'w') as f:
    f.write('{\n' + ',\n'.join(
        f'"{k}": [\n' + ',\n'.join(' ' + json.dumps(row) for row in v) + ']' if isinstance(v, list) and isinstance(v[0], dict) else f'"{k}": {json.dumps(v)}'
        for k, v in out.items()) + '\n}\n')
