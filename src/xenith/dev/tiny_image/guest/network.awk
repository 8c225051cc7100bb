# Turns a flattened network_data.json into what is to be done, one thing a line:
#
#   link|MAC|MTU|   address|MAC|ADDRESS/PREFIX|   route|MAC|TARGET|GATEWAY   dhcp|MAC||   dns||ADDRESS|
#
# Source: OpenStack, network_data.json: links (id, ethernet_mac_address, mtu), networks (link, type,
# ip_address, netmask, routes of network, netmask and gateway), services (type, address).

BEGIN { FS = "\t" }

{
    value = substr($0, length($1) + 2)
    count = split($1, step, ".")
    if (count < 4) next
    number = step[3]
    if (step[2] == "links") {
        link[number, step[4]] = value
        if (number + 0 >= links) links = number + 1
    } else if (step[2] == "services") {
        service[number, step[4]] = value
        if (number + 0 >= services) services = number + 1
    } else if (step[2] == "networks") {
        if (number + 0 >= networks) networks = number + 1
        if (step[4] == "routes") {
            route[number, step[5], step[6]] = value
            if (step[5] + 0 >= routes[number]) routes[number] = step[5] + 1
        } else {
            network[number, step[4]] = value
        }
    }
}

END {
    for (i = 0; i < links; i++) {
        mac = tolower(link[i, "ethernet_mac_address"])
        macs[link[i, "id"]] = mac
        say("link", mac, link[i, "mtu"], "")
    }
    for (i = 0; i < networks; i++) {
        mac = macs[network[i, "link"]]
        if (network[i, "type"] ~ /dhcp/) say("dhcp", mac, "", "")
        if (network[i, "ip_address"] == "") continue
        say("address", mac, with_prefix(network[i, "ip_address"], network[i, "netmask"]), "")
        for (j = 0; j < routes[i]; j++)
            say("route", mac, with_prefix(route[i, j, "network"], route[i, j, "netmask"]),
                route[i, j, "gateway"])
    }
    for (i = 0; i < services; i++)
        if (service[i, "type"] == "dns") say("dns", "", service[i, "address"], "")
}

function say(verb, mac, what, via) {
    gsub(/[^0-9A-Za-z:.\/]/, "", what)
    gsub(/[^0-9A-Za-z:.\/]/, "", via)
    print verb "|" mac "|" what "|" via
}

function with_prefix(address, mask) {
    if (address ~ /\// || mask == "") return address
    return address "/" (mask ~ /[.:]/ ? bits(mask) : mask)
}

# Counts the ones of a mask: 255.255.240.0 or ffff:ffff:ffff:ffff::
function bits(mask,    base, part, parts, count, i, digit, ones) {
    ones = 0
    if (mask ~ /:/) {
        gsub(/:/, "", mask)
        for (i = 1; i <= length(mask); i++) {
            digit = index("0123456789abcdef", tolower(substr(mask, i, 1))) - 1
            for (; digit > 0; digit = int(digit / 2)) ones += digit % 2
        }
        return ones
    }
    parts = split(mask, part, ".")
    for (i = 1; i <= parts; i++)
        for (digit = part[i] + 0; digit > 0; digit = int(digit / 2)) ones += digit % 2
    return ones
}
