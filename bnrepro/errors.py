"""The one exception that stands for a mistake in what the user gave, not in the program."""


class InputError(ValueError):
    """Bad input: its message is one line that names the key, the value and what is allowed.

    The command line prints the message alone and exits with a status other than 0;
    ``HYDRA_FULL_ERROR=1`` shows the traceback as well.
    """
