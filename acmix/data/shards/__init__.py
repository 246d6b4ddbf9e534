"""Shards: the images of a split in tar files of some hundred MB each, as `acmix data shard` writes them.

The tars follow WebDataset's convention: `KEY.jpg` holds an image's bytes as they were, `KEY.cls` its label. Beside them
lie `_info.json`, which timm's reader takes too, and for each split an index that says where in which tar each image is.
So a split of shards is read in any order, like a folder; nothing is ever unpacked.

| file | holds |
|---|---|
| `index` | `_info.json` and the indexes: read with every number checked, as they may come from anywhere |
| `source` | a split of shards, from a folder or a URL |
| `order` | the order of an epoch, in which a process reads few shards from front to back |
| `remote` | shards from a URL, in a cache of bounded size |
| `address` | a file at a URL, opened or refused |
"""
