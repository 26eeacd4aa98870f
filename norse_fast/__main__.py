"""``python -m norse_fast`` prints what is installed and what runs where."""

from ._info import info

if __name__ == "__main__":
    print(info())
