"""Small files that say that they are enormous, in every way that is known here. scenarios.py tries them."""
import io
import lzma
import struct
import zlib

from PIL import Image

SIDE = 65535  # pixels: the most that JPEG, GIF, TGA ... can say
ZEROS = zlib.compress(bytes(100_000_000), 9)  # 100 MB in 97 kB


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *more, pixels=zlib.compress(bytes(310))):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *more, chunk(b"IDAT", pixels), chunk(b"IEND", b"")])


def gif(screen, picture):
    colours = b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, picture, picture, 0) + b"\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<HHBBB", screen, screen, 0x80, 0, 0) + colours + frame + b";"


def with_size(kind, marker, place, size):
    "A small picture as Pillow writes it, with another size behind a marker."
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, kind)
    data = bytearray(file.getvalue())
    at = data.find(marker) + place
    data[at: at + len(size)] = size
    return bytes(data)


def tag(code, kind, count, value, big=False):
    return struct.pack("<HHQQ" if big else "<HHII", code, kind, count, value)


def tiff(width, height, compression=1, data=bytes(100), text=b"", strips=1, big=False):
    "A TIFF of one strip, or one that says that it has that many."
    start = 16 if big else 8
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    if text: entries.append((270, 2, len(text), start + len(data)))
    entries += [(273, 4, strips, start), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, len(data))]
    table = b"".join(tag(*entry, big) for entry in entries)
    place = start + len(data) + len(text)
    if big: return b"II+\0\x08\0\0\0" + struct.pack("<Q", place) + data + text + struct.pack("<Q", len(entries)) + table
    return b"II*\0" + struct.pack("<I", place) + data + text + struct.pack("<H", len(entries)) + table + bytes(4)


OME = (b'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
       b'DimensionOrder="XYZCT" Type="uint8" SizeX="10" SizeY="10" SizeZ="1000" SizeC="1" SizeT="1000000"><TiffData/>'
       b'</Pixels></Image></OME>\0')


def npy(shape, kind="|u1"):
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


def photos():
    "Name to content, of formats of photos."
    tga = struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, SIDE, SIDE, 24, 0)
    huge = png(SIDE, SIDE)
    icon = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(huge), 22)
    bmp = struct.pack("<IHHIIiiHH", 154, 0, 0, 54, 40, 13000, -2**31, 1, 24) + bytes(24)
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + b"\xff" * 6 + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return {
        "size.png": huge, "pixels.png": png(10, 10, pixels=ZEROS),
        "text.png": png(10, 10, chunk(b"zTXt", b"a\0\0" + ZEROS)),
        "profile.png": png(10, 10, chunk(b"iCCP", b"a\0\0" + ZEROS)),
        "frames.png": png(10, 10, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
        "screen.gif": gif(SIDE, 3), "picture.gif": gif(3, SIDE),
        "size.jpg": with_size("JPEG", b"\xff\xc0", 5, struct.pack(">HH", SIDE, SIDE)),
        "size.jp2": with_size("JPEG2000", b"\xff\x51", 6, struct.pack(">II", 2**31 - 1, 2**31 - 1)),
        "canvas.webp": b"RIFF" + struct.pack("<I", len(canvas) + 4) + b"WEBP" + canvas,
        "size.ppm": b"P6\n99999999999 99999999999\n255\n", "digits.ppm": b"P6\n" + b"9" * 10**6 + b" 3\n255\n",
        "size.bmp": b"BM" + bmp + bytes(100), "size.tga": tga + bytes(100), "size.ico": icon + huge,
        "size.psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 300000, 300000, 8, 3) + bytes(14),
        "size.qoi": b"qoif" + struct.pack(">IIBB", 2**32 - 1, 2**32 - 1, 3, 0) + bytes(9),
        "size.sgi": struct.pack(">HBBHHHH", 474, 1, 1, 3, SIDE, SIDE, 3) + bytes(500),
        "size.xpm": b'/* XPM */\nstatic char *x[] = {\n"99999 99999 2 1",\n"a c #000000",\n"b c #ffffff",\n"ab",\n};\n',
        "program.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n%%EOF\n"}


def tables():
    "Name to content, of TIFF and NumPy files."
    packed = lzma.compress(bytes(100_000_000), preset=0) + bytes(2**16)
    return {
        "size.tif": tiff(2**31 - 1, 2**31 - 1), "strips.tif": tiff(10, 10, strips=2**32 - 1),
        "strips of a large one.tif": tiff(10, 10, strips=2**64 - 1, big=True),
        "deflate.tif": tiff(10, 10, 8, ZEROS), "lzma.tif": tiff(10, 10, 34925, packed),
        "packbits.tif": tiff(10, 10, 32773, b"\x81\0" * 10**6), "notes.ome.tif": tiff(10, 10, text=OME),
        "size.npy": npy((10**6, 10**6)), "nothing.npy": npy((10**6, 10**6), "|V0"), "negative.npy": npy((-3, 10)),
        "objects.npy": npy((3, 10), "|O") + bytes(99)}
