# Writes decode/ with Pillow 13.0.0 (libjpeg-turbo 3.2.0, libwebp). It holds images x.<ext>, which are computed by a formula,
# and x.<ext>.png, the pixels that Pillow reads from them in upright orientation. Writes reduced.txt: the denominator, the size
# and the CRC-32 of the pixels that Pillow's draft mode reads from the JPEG files. Prints the CRC-32s in resize_test.go.
# Run: python3 make.py   (only to write the files again; no test needs Python)
import io, struct, zlib
import numpy as np
from PIL import Image, ImageCms, ImageOps

def picture(w, h, seed=0):
    y, x = np.mgrid[0:h, 0:w].astype(float)
    noise = np.random.default_rng(seed).normal(0, 6, (h, w, 3))
    a = np.stack([127 + 120 * np.sin(x / 7 + y / 11), 127 + 120 * np.cos(x / 5 - y / 9), (x * 3 + y * 5) % 256], -1)
    return Image.fromarray(np.clip(a + noise, 0, 255).astype('uint8'))

def put(name, data):
    open('decode/' + name, 'wb').write(data)
    im = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if im.mode.startswith('I;16'):  # convert clips at 255; see deep.py
        im = Image.fromarray((np.asarray(im) >> 8).astype('uint8'))
    im.convert('RGB').save('decode/' + name + '.png', optimize=True)

def encode(im, fmt, **k):
    b = io.BytesIO()
    im.save(b, fmt, **k)
    return b.getvalue()

p, odd = picture(32, 32), picture(33, 29)
put('444.jpg', encode(odd, 'JPEG', quality=90, subsampling='4:4:4'))
put('422.jpg', encode(odd, 'JPEG', quality=90, subsampling='4:2:2'))
put('420.jpg', encode(odd, 'JPEG', quality=90, subsampling='4:2:0'))
put('420narrow.jpg', encode(picture(4, 9), 'JPEG', quality=90, subsampling='4:2:0'))  # two chroma columns: no interpolation
put('420progressive.jpg', encode(odd, 'JPEG', quality=90, progressive=True))
# Pillow writes neither 4:4:0 nor 4:1:1. At 32×32 they have as many blocks as 4:2:2 and 4:2:0, so another sampling factor
# in the frame header makes a valid file (of a scrambled picture).
def resample(data, old, new):
    i = data.index(b'\xff\xc0') + 11
    assert data[i] == old
    return data[:i] + bytes([new]) + data[i + 1:]
put('440.jpg', resample(encode(p, 'JPEG', quality=90, subsampling='4:2:2'), 0x21, 0x12))
put('411.jpg', resample(encode(p, 'JPEG', quality=90, subsampling='4:2:0'), 0x22, 0x41))
put('grey.jpg', encode(odd.convert('L'), 'JPEG', quality=90))
put('rgb.jpg', encode(odd, 'JPEG', quality=90, keep_rgb=True))
y, x = np.mgrid[0:29, 0:33]
cmyk = encode(Image.fromarray(np.stack([x * 6, y * 6, (x + y) * 3, x * y // 7], -1).astype('uint8'), 'CMYK'), 'JPEG', quality=90)
put('cmyk.jpg', cmyk)
adobe = cmyk.index(b'Adobe') + 11
put('ycck.jpg', cmyk[:adobe] + b'\x02' + cmyk[adobe + 1:])
small = picture(14, 9)
for o in range(1, 9):
    exif = Image.Exif()
    exif[0x112] = o
    put(f'orientation{o}.jpg', encode(small, 'JPEG', quality=95, exif=exif))
exif[0x112] = 6
put('orientation6.png', encode(small, 'PNG', exif=exif))
put('orientation6.webp', encode(small, 'WEBP', lossless=True, exif=exif))
put('orientation6.tif', encode(small, 'TIFF', exif=exif))
alpha = odd.convert('RGBA')
alpha.putalpha(odd.convert('L'))
put('rgba.png', encode(alpha, 'PNG'))
put('palette.png', encode(small.quantize(13), 'PNG', transparency=3))
put('greyalpha.png', encode(small.convert('LA'), 'PNG'))
put('bits.png', encode(small.convert('1'), 'PNG'))
put('lossy.webp', encode(odd, 'WEBP', quality=85))
put('lossyalpha.webp', encode(alpha, 'WEBP', quality=85))
put('lossless.webp', encode(small, 'WEBP', lossless=True))
put('palette.gif', encode(small.quantize(60), 'GIF'))
put('animation.gif', encode(small.quantize(60), 'GIF', save_all=True, append_images=[picture(14, 9, 1).quantize(30)]))
put('transparent.gif', encode(small.quantize(20), 'GIF', transparency=3))
put('group3.tif', encode(odd.convert('1'), 'TIFF', compression='group3'))
put('group4.tif', encode(odd.convert('1'), 'TIFF', compression='group4'))
put('bilevel.tif', encode(odd.convert('1'), 'TIFF'))
# A lossless chunk of odd length: RIFF pads it, and the EXIF chunk comes after.
exif[0x112] = 6
odds = [e for e in (encode(picture(14, 9, s), 'WEBP', lossless=True, exif=exif) for s in range(50)) if e[e.index(b'VP8L') + 4] % 2]
put('orientation6odd.webp', odds[0])
# An orientation that is stored as LONG.
jpeg = encode(small, 'JPEG', quality=95, exif=exif)
entry = jpeg.index(bytes.fromhex('0112000300000001') if b'MM\0*' in jpeg else bytes.fromhex('1201030001000000'))
assert b'MM\0*' in jpeg
put('orientation6long.jpg', jpeg[:entry] + bytes.fromhex('011200040000000100000006') + jpeg[entry + 12:])
put('rgb.bmp', encode(small, 'BMP'))
put('palette.bmp', encode(small.quantize(60), 'BMP'))
put('lzw.tif', encode(small, 'TIFF', compression='tiff_lzw'))
put('deflate.tif', encode(small, 'TIFF', compression='tiff_adobe_deflate'))
put('alpha.tif', encode(alpha.crop((0, 0, 9, 7)), 'TIFF'))
put('rgb.ppm', encode(small, 'PPM'))
put('grey.pgm', encode(small.convert('L'), 'PPM'))

# Steps that make the inverse DCT overflow as in the SIMD code of libjpeg-turbo.
q = encode(odd, 'JPEG', quality=90)
i = q.index(b'\xff\xdb') + 5
put('overflow.jpg', q[:i] + b'\xff\xf0' + q[i + 2:])
# Orientation in XMP: a JPEG with one of EXIF too, which comes first; a PNG; a WebP; a TIFF.
xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
exif[0x112] = 3
put('xmp_and_exif.jpg', encode(small, 'JPEG', quality=95, exif=exif, xmp=xmp))
from PIL.PngImagePlugin import PngInfo
info = PngInfo()
info.add_itxt('XML:com.adobe.xmp', xmp.decode(), zip=True)
put('xmp.png', encode(small, 'PNG', pnginfo=info))
put('xmp.webp', encode(small, 'WEBP', lossless=True, xmp=xmp))
put('xmp.tif', encode(small, 'TIFF', tiffinfo={700: xmp}))
put('packbits.tif', encode(odd, 'TIFF', compression='packbits'))
put('jpeg_rgb.tif', encode(odd, 'TIFF', compression='jpeg'))
put('interlaced.gif', encode(small.quantize(60), 'GIF', interlace=True))

# 16 bits per channel, with low bytes that rounding would carry. Pillow writes only grey of 16 bits, and no alpha of 16 bits.
def png16(a, kind):
    def chunk(name, data):
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in a)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', a.shape[1], a.shape[0], 16, kind, 0, 0, 0))
            + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b''))

def tiff16(a, order, photometric, extra=None):
    channels = a.shape[2]
    data = a.astype(order + 'u2').tobytes()
    tags = [(256, 3, a.shape[1]), (257, 3, a.shape[0]), (258, 3, None), (259, 3, 1), (262, 3, photometric), (273, 4, None),
            (277, 3, channels), (278, 3, a.shape[0]), (279, 4, len(data))] + ([(338, 3, extra)] if extra is not None else [])
    end = 8 + 2 + 12 * len(tags) + 4
    out = (b'II*\0' if order == '<' else b'MM\0*') + struct.pack(order + 'IH', 8, len(tags))
    for tag, kind, value in tags:
        if tag == 258:
            out += struct.pack(order + 'HHII', tag, 3, channels, end) if channels > 2 else struct.pack(order + 'HHIHH', tag, 3, channels, 16, 16 * (channels - 1))
        else:
            value = end + 8 if tag == 273 else value
            out += struct.pack(order + ('HHIHxx' if kind == 3 else 'HHII'), tag, kind, 1, value)
    return out + struct.pack(order + 'I', 0) + struct.pack(order + 'HHHH', 16, 16, 16, 16) + data

deep = np.random.default_rng(1).integers(0, 65536, (7, 9, 4))
deep[0, :6] = np.array([0, 127, 128, 255, 0xfe80, 0xffff])[:, None]
put('grey16.png', png16(deep[:, :, :1], 0))
put('rgb16.png', png16(deep[:, :, :3], 2))
put('greyalpha16.png', png16(deep[:, :, :2], 4))
put('rgba16.png', png16(deep, 6))
for order, name in ('<', 'le'), ('>', 'be'):
    put(f'grey16{name}.tif', tiff16(deep[:, :, :1], order, 1))
    put(f'rgb16{name}.tif', tiff16(deep[:, :, :3], order, 2))
    put(f'rgba16{name}.tif', tiff16(deep, order, 2, 2))
    put(f'cmyk16{name}.tif', tiff16(deep, order, 5))
put('dim16.png', png16(deep[:, :, :1] >> 4, 0))  # 12 bits, as in medical images

# ICC profiles, which convert ignores.
lab = ImageCms.ImageCmsProfile(ImageCms.createProfile('LAB')).tobytes()
srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
put('icc.jpg', encode(small, 'JPEG', quality=90, icc_profile=lab))
put('icc.png', encode(small, 'PNG', icc_profile=lab))
put('icc.webp', encode(small, 'WEBP', lossless=True, icc_profile=lab))
put('icc.tif', encode(small, 'TIFF', icc_profile=lab))
put('srgb.png', encode(small, 'PNG', icc_profile=srgb))
put('icc_cmyk.jpg', encode(odd.convert('CMYK'), 'JPEG', quality=90, icc_profile=lab))

# The other files of decode/ are rare or damaged forms that Pillow does not write: their bytes are kept, their pixels written again.
import glob, os
for path in sorted(glob.glob('decode/*')):
    if not path.endswith('.png') or os.path.exists(path + '.png'):
        put(os.path.basename(path), open(path, 'rb').read())

with open('reduced.txt', 'w') as f:
    for path in sorted(glob.glob('decode/*.jpg')):
        for d in 2, 4, 8:
            im = Image.open(path)
            w, h = im.size
            # Pillow takes the denominator that leaves the size that was asked for. libjpeg-turbo limits coefficients that are
            # too large, as in overflow.jpg, in another way for each denominator.
            if min(w, h) < d or path == 'decode/overflow.jpg':
                continue
            im.draft(im.mode, (w // d, h // d))
            im = im.convert('RGB')
            f.write('%s %d %d %d %08x\n' % (os.path.basename(path), d, *im.size, zlib.crc32(im.tobytes())))

for w, h, nw, nh in [(300, 200, 224, 224), (28, 28, 224, 224), (224, 224, 224, 224), (224, 100, 224, 224), (1, 1, 5, 4),
                     (5, 3, 1, 1), (640, 480, 32, 48), (37, 41, 38, 40), (17, 500, 256, 31), (1000, 3, 7, 300), (384, 256, 256, 384)]:
    i = np.arange(w * h * 3, dtype=np.uint64)
    pix = (((i * i * np.uint64(7) + i * np.uint64(13)) >> np.uint64(3)) ^ (i >> np.uint64(7))).astype('uint8').reshape(h, w, 3)
    # In two steps: up to version 12 resize did the rows first always; 13 does the columns first where that is less work.
    out = Image.fromarray(pix).resize((nw, h), Image.BICUBIC).resize((nw, nh), Image.BICUBIC)
    print('{%d, %d, %d, %d, 0x%08x},' % (w, h, nw, nh, zlib.crc32(out.tobytes())))
