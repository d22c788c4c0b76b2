"""Whole slides: images larger than memory, analysed and written tile by tile.

`run.iter_analyse_slide` analyses one into a folder; `pipeline.analyse` does so by itself if an image is large.
"""
