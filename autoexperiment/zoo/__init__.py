"""Datasets and tasks that are ready to be named in a workflow's configuration, as `module:function`."""
