/* A stand-in for Xen under real xenstored: domains are files in the directory XEN_STAND_IN.

   <domid>   4096 bytes: the page that a domain shares with xenstored; the domain is while it is
   events    a pipe of event channel ports

   Preloaded, so it stands before libxenctrl, libxengnttab and libxenevtchn. No header is needed:
   what is used of them is declared here. */

typedef unsigned int u32;
typedef unsigned long size;

extern char *getenv(const char *);
extern int snprintf(char *, size, const char *, ...);
extern int strcmp(const char *, const char *);
extern int access(const char *, int);
extern int close(int);
extern long read(int, void *, size);
extern void *mmap(void *, size, int, int, int, long);
extern int munmap(void *, size);
extern long syscall(long, ...);

#define OPENAT 257
#define CWD -100
#define READ_WRITE 2
#define VIRQ_PORT 1
#define FIRST_PORT 1000

static int events = -1;

static const char *place(const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("XEN_STAND_IN"), name);
    return path;
}

static const char *page(u32 domid)
{
    char name[16];
    snprintf(name, sizeof name, "%u", domid);
    return place(name);
}

int open(const char *path, int flags, int mode)
{
    if (!strcmp(path, "/proc/xen/xsd_port"))
        path = place("port");
    else if (!strcmp(path, "/proc/xen/xsd_kva"))
        path = page(0);
    return syscall(OPENAT, CWD, path, flags, mode);
}

int open64(const char *path, int flags, int mode)
{
    return open(path, flags, mode);
}

void *xc_interface_open(void *logger, void *dombuild_logger, unsigned flags)
{
    return &events;
}

int xc_interface_close(void *handle)
{
    return 0;
}

/* Source: xenctrl.h 4.17, xc_dominfo_t: domid, ssidref, then bits; all of them 0 while it runs. */
int xc_domain_getinfo(void *handle, u32 first, unsigned count, u32 *info)
{
    if (access(page(first), 0))
        return 0;
    info[0] = first;
    info[1] = info[2] = 0;
    return 1;
}

void *xengnttab_open(void *logger, unsigned flags)
{
    return &events;
}

int xengnttab_close(void *handle)
{
    return 0;
}

int xengnttab_set_max_grants(void *handle, u32 count)
{
    return 0;
}

void *xengnttab_map_grant_ref(void *handle, u32 domid, u32 ref, int prot)
{
    int file = open(page(domid), READ_WRITE, 0);
    void *at;

    if (file < 0)
        return 0;
    at = mmap(0, 4096, 3, 1, file, 0);
    close(file);
    return at == (void *)-1 ? 0 : at;
}

int xengnttab_unmap(void *handle, void *at, u32 count)
{
    return munmap(at, 4096);
}

void *xenevtchn_open(void *logger, unsigned flags)
{
    events = open(place("events"), READ_WRITE, 0);
    return &events;
}

int xenevtchn_fd(void *handle)
{
    return events;
}

int xenevtchn_bind_virq(void *handle, unsigned virq)
{
    return VIRQ_PORT;
}

int xenevtchn_bind_interdomain(void *handle, u32 domid, u32 port)
{
    return FIRST_PORT + domid;
}

int xenevtchn_unbind(void *handle, u32 port)
{
    return 0;
}

int xenevtchn_notify(void *handle, u32 port)
{
    return 0;
}

int xenevtchn_pending(void *handle)
{
    int port;

    return read(events, &port, sizeof port) == sizeof port ? port : -1;
}

int xenevtchn_unmask(void *handle, u32 port)
{
    return 0;
}
