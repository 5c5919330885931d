"""The tables and figures of the papers, one small file each, and what the files of one paper share."""
