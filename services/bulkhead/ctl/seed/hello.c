/* The program of the hello-world image: says that everything between a client and here works. */
#include <string.h>
#include <unistd.h>

static const char greeting[] =
    "\n"
    "Hello from Bulkhead! A container of your own has just run.\n"
    "\n"
    "On the way to this line:\n"
    " 1. your client asked the API daemon for a container of the image hello-world;\n"
    " 2. the manager took the image from the registry on this machine and unpacked it;\n"
    " 3. a shim, one per container, started this program in namespaces of its own;\n"
    " 4. the same shim carried these words straight to the API daemon, and it to you.\n"
    "\n"
    "Something with more room to move in:\n"
    "    docker run -it busybox\n"
    "\n"
    "And the point of it all: kill any of the daemons meanwhile (make kill-manager).\n"
    "The container will not notice.\n"
    "\n";

int main(void)
{
    size_t done = 0;
    const size_t length = strlen(greeting);

    while (done < length) {
        ssize_t written = write(STDOUT_FILENO, greeting + done, length - done);
        if (written < 0)
            return 1;
        done += (size_t)written;
    }
    return 0;
}
