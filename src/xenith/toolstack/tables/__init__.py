"""The classes of XenAPI as tables of fields, a file for each part of the datamodel."""
