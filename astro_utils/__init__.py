"""Pixels to Physics: what more than one notebook needs, and every model.

Data flows one way: dataset -> sample -> split -> fit -> predictions -> metrics, tables, figures -> book.
Each module is one stage or one idea; nothing here keeps global state.
"""

__version__ = "0.1.0"
