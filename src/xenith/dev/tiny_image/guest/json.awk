# Flattens a JSON document: a line for each value, its path, a tab and the value.
#
#   {"a": [{"b": "c"}]}   gives   .a.0.b<TAB>c
#
# Line breaks and tabs in strings become blanks, so that a value stays one line.

{ text = text $0 "\n" }

END {
    depth = 0
    path[0] = ""
    while (text != "") {
        if (match(text, /^[ \t\r\n,:]+/)) {
            text = substr(text, RLENGTH + 1)
        } else if (match(text, /^[{[]/)) {
            depth++
            is_list[depth] = substr(text, 1, 1) == "["
            count[depth] = 0
            text = substr(text, 2)
            wants_key[depth] = !is_list[depth]
            if (is_list[depth]) path[depth] = path[depth - 1] ".0"
        } else if (match(text, /^[]}]/)) {
            depth--
            text = substr(text, 2)
            finish()
        } else if (match(text, /^"([^"\\]|\\.)*"/)) {
            word = plain(substr(text, 2, RLENGTH - 2))
            text = substr(text, RLENGTH + 1)
            if (wants_key[depth]) {
                path[depth] = path[depth - 1] "." word
                wants_key[depth] = 0
            } else {
                print path[depth] "\t" word
                finish()
            }
        } else if (match(text, /^[-+.0-9A-Za-z]+/)) {
            word = substr(text, 1, RLENGTH)
            text = substr(text, RLENGTH + 1)
            if (word != "null") print path[depth] "\t" word
            finish()
        } else {
            exit 1
        }
    }
}

# A value has ended: the next in a list has the next number, the next in an object its own key.
function finish() {
    if (depth == 0) return
    if (is_list[depth]) path[depth] = path[depth - 1] "." ++count[depth]
    else wants_key[depth] = 1
}

function plain(word,    out, mark, i) {
    out = ""
    while ((i = index(word, "\\")) > 0) {
        out = out substr(word, 1, i - 1)
        mark = substr(word, i + 1, 1)
        word = substr(word, i + 2)
        if (mark ~ /[ntrbf]/) {
            out = out " "
        } else if (mark == "u") {
            out = out ascii(substr(word, 1, 4))
            word = substr(word, 5)
        } else {
            out = out mark
        }
    }
    out = out word
    gsub(/[\t\n]/, " ", out)
    return out
}

function ascii(digits,    code, i) {
    code = 0
    for (i = 1; i <= 4; i++)
        code = code * 16 + index("0123456789abcdef", tolower(substr(digits, i, 1))) - 1
    return code >= 32 && code < 127 ? sprintf("%c", code) : "?"
}
