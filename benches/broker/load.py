"""Publishes packets of one reading each over many MQTT connections, as fast as a broker takes them.

Every packet is encoded before the clock starts, and a window of them goes out in one write, so that the load takes
little of the machine and the same from it whatever broker is measured: what a fleet's devices would compute is theirs,
not the broker's. Says `ready` when all are connected, begins at a line on standard input, ends with one line of JSON.
"""

import argparse
import array
import json
import select
import socket
import struct
import sys
import time

PUBACK = 0x40
CHUNK = 16 * 1024  # bytes of one write at QoS 0


def text(value):
    return struct.pack("!H", len(value)) + value


def framed(first, body):
    length, size = b"", len(body)
    while True:
        size, low = divmod(size, 128)
        length += bytes([low | (128 if size else 0)])
        if not size:
            return bytes([first]) + length + body


def payload(device, seq, ts_ms):
    # As the documentation shows a packet, with the device's name in it: about 170 bytes.
    clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ts_ms / 1000)) + f".{ts_ms % 1000:03}Z"
    return (
        f'{{"device_id":"{device}","timestamp":"{clock}","heart_rate":{60 + seq % 40},'
        f'"blood_pressure":"{110 + seq % 20}/76","temperature":36.{seq % 10},"spo2":{95 + seq % 5},"respiratory_rate":{12 + seq % 8},"seq":{seq}}}'
    ).encode()


class Device:
    """A connection, and all that it is to send."""

    def __init__(self, number, messages, qos, start_ms):
        name = f"device_{number}"
        self.connect = framed(0x10, text(b"MQTT") + b"\x04\x02\x00\x3c" + text(name.encode()))
        topic = text(f"iot/device/{name}".encode())
        packets, self.ends, at, self.bytes = [], array.array("Q", [0]), 0, 0
        for seq in range(messages):
            body = payload(name, seq, start_ms + seq * 10)
            self.bytes += len(body)
            packet_id = struct.pack("!H", seq % 65535 + 1) if qos else b""
            packets.append(framed(0x30 | qos << 1, topic + packet_id + body))
            at += len(packets[-1])
            self.ends.append(at)
        self.packets, self.messages = memoryview(b"".join(packets)), messages
        self.written = self.acknowledged = self.answer_bytes = 0
        self.blocked = False  # the socket takes nothing now

    def open(self, port):
        self.wire = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.wire.sendall(self.connect)
        answer = b""
        while len(answer) < 4:
            part = self.wire.recv(4 - len(answer))
            if not part:
                sys.exit("the broker closed a connection")
            answer += part
        if answer[3] != 0:
            sys.exit(f"the broker refused a connection: {answer.hex()}")
        self.wire.setblocking(False)

    def write(self, upto):
        """Writes up to a byte; whether there is more than the socket takes now."""
        while self.written < upto:
            try:
                self.written += self.wire.send(self.packets[self.written : upto])
            except BlockingIOError:
                return True
        return False

    def read(self):
        """Counts acknowledgements, which have four bytes each."""
        data = self.wire.recv(65536)
        if not data:
            sys.exit("the broker closed a connection")
        first = -self.answer_bytes % 4  # where the next answer begins
        if data[first : first + 1] not in (b"", bytes([PUBACK])):
            sys.exit(f"the broker answered what is no acknowledgement: {data[:8].hex()}")
        self.answer_bytes += len(data)
        self.acknowledged = self.answer_bytes // 4


def publish_unacknowledged(devices, poll):
    by_wire = {device.wire.fileno(): device for device in devices}
    for fd in by_wire:
        poll.register(fd, select.EPOLLOUT)
    open_wires = len(devices)
    while open_wires:
        for fd, _ in poll.poll():
            device = by_wire[fd]
            # A little of each, or few connections would be active at a time.
            device.write(min(device.written + CHUNK, len(device.packets)))
            if device.written == len(device.packets):
                poll.unregister(fd)
                open_wires -= 1


def publish_acknowledged(devices, poll, window):
    by_wire = {device.wire.fileno(): device for device in devices}
    waiting = len(devices)

    def advance(fd, device):
        upto = device.ends[min(device.acknowledged + window, device.messages)]
        more = device.write(upto)
        if more != device.blocked:
            poll.modify(fd, select.EPOLLIN | select.EPOLLOUT if more else select.EPOLLIN)
        device.blocked = more

    for fd, device in by_wire.items():
        poll.register(fd, select.EPOLLIN)
        advance(fd, device)
    while waiting:
        for fd, events in poll.poll():
            device = by_wire[fd]
            if events & ~select.EPOLLOUT:
                device.read()
                if device.acknowledged == device.messages:
                    poll.unregister(fd)
                    waiting -= 1
                    continue
            advance(fd, device)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--qos", type=int, choices=(0, 1), default=1)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--messages", type=int, default=100_000, help="of all connections together")
    parser.add_argument("--window", type=int, default=20, help="unacknowledged packets of a connection")
    parser.add_argument("--hold", type=float, help="publish nothing and hold the connections, for so many seconds")
    options = parser.parse_args()
    each, more = divmod(0 if options.hold else options.messages, options.connections)
    # The last reading of a device is of now, none is of the future.
    start_ms = int(time.time() * 1000) - (each + 1) * 10
    devices = [Device(n, each + (n < more), options.qos, start_ms) for n in range(options.connections)]
    for device in devices:
        device.open(options.port)
    print("ready", flush=True)
    sys.stdin.readline()
    begun, cpu = time.perf_counter(), time.process_time()
    if options.hold:
        time.sleep(options.hold)
    elif options.qos == 0:
        publish_unacknowledged([device for device in devices if device.messages], select.epoll())
    else:
        publish_acknowledged([device for device in devices if device.messages], select.epoll(), options.window)
    done = {"seconds": time.perf_counter() - begun, "cpu_s": time.process_time() - cpu,
            "messages": sum(device.messages for device in devices), "bytes": sum(device.bytes for device in devices)}
    for device in devices:
        device.wire.setblocking(True)
        device.wire.sendall(b"\xe0\x00")
    # A broker ends the connection when it has read everything. A close before that could cost what it has not read.
    for device in devices:
        device.wire.settimeout(120)
        while device.wire.recv(65536):
            pass
    print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
