"""The checker of plug-ins: does a method keep the promises that its slot makes?"""
