"""Whole slides: images larger than memory, read, analysed and written tile by tile.

`images.open_image` opens any of them lazily, `run.iter_analyse_slide` analyses one into a folder, and `SlideResult` is
what comes out of it. `pipeline.analyse` goes this way by itself where an image is large.
"""
