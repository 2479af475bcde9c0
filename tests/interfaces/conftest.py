from tests.runs import data_files as data_files
