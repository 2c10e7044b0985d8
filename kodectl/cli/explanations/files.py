"""Configuration and key files."""

from __future__ import annotations

from kodectl.cli.explanations.entry import Explanation

CONFIGURATION = {
    "config_invalid": Explanation(
        "The configuration file cannot be read as TOML.",
        "The TOML parser refused it, or it is larger than 1 MiB.",
        "Mend the line that the message names.",
        "kodectl config check",
    ),
    "config_invalid_value": Explanation(
        "A setting has a value that cannot be.",
        "The value of a variable or of a key in the file does not parse; the message says what it should be.",
        "Correct it where the message says it comes from.",
        "kodectl config show --origin",
    ),
    "config_unknown_key": Explanation(
        "The file has a key, or the environment a KODECTL_ variable, that is no setting.",
        "The name is in no list of settings; the message has the nearest that is.",
        "Correct the spelling, or remove it.",
        "kodectl config init --stdout",
    ),
    "config_unreadable": Explanation(
        "The configuration file cannot be read.",
        "Opening or reading it failed.",
        "Check its name and permissions.",
        "kodectl config check --config FILE",
    ),
}

KEYS = {
    "key_missing": Explanation(
        "There is no key file of this name.",
        "Opening it failed, as there is nothing.",
        "Make one, or name another; a node makes its own at the first start.",
        "kodectl key gen FILE",
    ),
    "key_exists": Explanation(
        "There is a file of this name already.",
        "The name was taken when the file should get it.",
        "Choose another name, or give --force: then the old file, and an identity in it, is lost.",
        "kodectl key show FILE",
    ),
    "key_unreadable": Explanation(
        "The key file cannot be read.",
        "Opening or reading it failed, or it is no regular file.",
        "Run the command as the file's owner.",
        "ls -l FILE",
    ),
    "key_malformed": Explanation(
        "The file is no key file, or is cut short.",
        "It has no PEM block, or the block no PKCS#8 structure.",
        "Restore it from a backup, or make a new identity under another name.",
        "kodectl key gen OTHER",
    ),
    "key_wrong_kind": Explanation(
        "The file holds a key, but none that a node can use.",
        "The PEM is no private key in PKCS#8, or its algorithm is not Ed25519.",
        "Use an Ed25519 key.",
        "openssl genpkey -algorithm ed25519",
    ),
    "key_encrypted": Explanation(
        "The key is encrypted, and no passphrase was given.",
        "The PEM says ENCRYPTED PRIVATE KEY.",
        "Give the passphrase in a file that only you can read.",
        "kodectl key show FILE --passphrase-file SECRET",
    ),
    "key_too_costly": Explanation(
        "The key file asks for more work, or memory, than this program is willing to spend on opening it.",
        "The cost that is written in it (scrypt: N * r * p above 4,194,304; PBKDF2: above ten million rounds).",
        "Do not trust the file. If it is yours, seal the key again with a usual cost.",
        "openssl pkcs8 -topk8 -scrypt -in node.key -out other.key",
    ),
    "key_wrong_passphrase": Explanation(
        "The passphrase does not open the key.",
        "Decrypted with it, the file is noise; a damaged file looks the same.",
        "Check the first line of the passphrase file.",
        "kodectl key show FILE --passphrase-file SECRET",
    ),
    "key_exposed": Explanation(
        "Others than the owner can read the key file.",
        "Its mode has bits for group or others.",
        "Take them away; if others use this machine, make a new identity.",
        "chmod 600 FILE",
    ),
    "users_exposed": Explanation(
        "Others than the owner can read the file of users.",
        "Its mode has bits for group or others.",
        "Take them away; if others use this machine, change the passwords.",
        "chmod 600 FILE",
    ),
    "passphrase_invalid": Explanation(
        "The passphrase file holds no passphrase.",
        "Its first line is empty, or it has more than 1,024 bytes.",
        "Write the passphrase into its first line.",
        "kodectl key show FILE --passphrase-file SECRET",
    ),
    "passphrase_unreadable": Explanation(
        "The passphrase file cannot be read.",
        "Opening or reading it failed; the message has the system's word.",
        "Check its name and permissions.",
        "ls -l FILE",
    ),
    "file_exists": Explanation(
        "There is a file of this name already.",
        "The name was taken when the file should get it.",
        "Choose another name, or give --force: then the old file is lost.",
        "ls -l FILE",
    ),
    "path_unwritable": Explanation(
        "A file cannot be written there.",
        "Making it, writing it, syncing it or naming it failed; nothing was replaced.",
        "Check the directory, its permissions, and the free space.",
        "df -h; ls -ld DIRECTORY",
    ),
}
