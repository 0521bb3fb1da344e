"""The sizes the published models were trained at, in pixels. Other multiples of a token work, but worse."""

# label -> (width, height), for text to image and edits
TRAINED_SIZES = {
    "1:1  2048x2048": (2048, 2048),
    "16:9  2720x1536": (2720, 1536),
    "9:16  1536x2720": (1536, 2720),
    "3:2  2496x1664": (2496, 1664),
    "2:3  1664x2496": (1664, 2496),
    "4:3  2368x1760": (2368, 1760),
    "3:4  1760x2368": (1760, 2368),
    "2:1  2880x1440": (2880, 1440),
    "1:2  1440x2880": (1440, 2880),
    "3:1  3456x1152": (3456, 1152),
    "1:3  1152x3456": (1152, 3456),
}
# U1.5 alone was trained up to areas of 4096 x 4096.
TRAINED_SIZES_U15 = {
    "U1.5 only, 1:1  4096x4096": (4096, 4096),
    "U1.5 only, 16:9  3840x2176": (3840, 2176),
    "U1.5 only, 9:16  2176x3840": (2176, 3840),
}
