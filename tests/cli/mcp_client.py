"""The official Python client against `assay mcp`: python mcp_client.py ASSAY WORKBENCH"""

import asyncio
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


async def main(program, workbench):
    args = ["-C", workbench, "mcp", "--backend", "emulator", "--no-record"]
    async with stdio_client(StdioServerParameters(command=program, args=args)) as streams:
        async with ClientSession(*streams) as session:
            await session.initialize()
            tools = [tool.name for tool in (await session.list_tools()).tools]
            assert len(tools) <= 12 and "verify" in tools, tools
            resources = [str(r.uri) for r in (await session.list_resources()).resources]
            assert "assay://contract/swiglu" in resources, resources
            contract = await session.call_tool("read", {"what": "contract/swiglu"})
            assert "shared expert" in contract.content[0].text, contract
            steps = []

            async def progress(step, total, message):
                steps.append(step)

            verdict = await session.call_tool("verify", {"node": "swiglu"}, progress_callback=progress)
            assert "PASS on the emulator" in verdict.content[0].text, verdict
            assert steps == sorted(steps) and steps, steps
            refused = await session.call_tool("write_kernel", {"file": "../state/x", "text": ""})
            assert "tool-refused" in refused.content[0].text, refused
            print("all as expected")


asyncio.run(main(*sys.argv[1:]))
